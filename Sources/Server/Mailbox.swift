package import RingIO
import Synchronization
package import VolumeEngine

/// Counts of connections and their requests since the start, and amounts now.
package struct ClientStatistics: Sendable, Equatable {
  package var connections = 0
  package var handshaking = 0
  package var accepted: UInt64 = 0
  /// Turned away: too many connections, or shutting down.
  package var refused: UInt64 = 0
  package var requests: UInt64 = 0
  /// Connections closed because of what the peer sent.
  package var protocolErrors: UInt64 = 0
  /// Connections closed because the peer was too slow.
  package var timeouts: UInt64 = 0
  package var bufferBytes: UInt64 = 0
  package var bufferBytesFree: UInt64 = 0

  package init() {}
}

/// What the control plane sees of the loop: plain values, published now and then.
package struct ServerSnapshot: Sendable {
  package var volume = VolumeStatistics()
  /// In the order of `DeviceIndex`.
  package var devices: [DeviceStatistics] = []
  package var clients = ClientStatistics()
  /// The last 64 sentences for the operator, oldest first.
  package var events: [String] = []
  package var isShuttingDown = false
  /// Nanoseconds since the loop began.
  package var uptime: UInt64 = 0

  package init() {}
}

/// The one thing that the loop shares with the control plane: a snapshot of numbers one way, a
/// few commands the other. The loop is never made to wait by it but for copying a snapshot.
package final class Mailbox: Sendable {
  private let published = Mutex(ServerSnapshot())
  private let wantsSnapshot = Atomic<Bool>(false)
  private let wantsShutdown = Atomic<Bool>(false)
  private let wantsHandover = Atomic<Bool>(false)
  private let changes = Mutex<ServerChanges?>(nil)
  private let taken = Mutex<ServerChanges?>(nil)
  let wakeUp: WakeUp

  package init() throws(SystemError) { wakeUp = try WakeUp() }

  deinit { wakeUp.close() }

  /// The newest published snapshot.
  package var snapshot: ServerSnapshot { published.withLock { $0 } }

  /// Asks for a fresh snapshot soon. The loop publishes at most five a second, and one a second
  /// unasked.
  package func requestSnapshot() {
    wantsSnapshot.store(true, ordering: .releasing)
    wakeUp.signal()
  }

  /// Asks the server to shut down, as SIGTERM does.
  package func requestShutdown() {
    wantsShutdown.store(true, ordering: .releasing)
    wakeUp.signal()
  }

  /// Asks the server to bring its connections to rest and give them out.
  package func requestHandover() {
    wantsHandover.store(true, ordering: .releasing)
    wakeUp.signal()
  }

  /// Changes what may be changed while clients are served, soon.
  package func change(_ what: ServerChanges) {
    changes.withLock { $0 = what }
    wakeUp.signal()
  }

  /// The last changes that were made; nil when there were none.
  package var inForce: ServerChanges? { taken.withLock { $0 } }

  // The loop's side.

  func publish(_ snapshot: ServerSnapshot) { published.withLock { $0 = snapshot } }
  var isSnapshotWanted: Bool { wantsSnapshot.load(ordering: .acquiring) }
  func snapshotTaken() { wantsSnapshot.store(false, ordering: .releasing) }
  var isShutdownWanted: Bool { wantsShutdown.load(ordering: .acquiring) }
  /// What is to be changed, once.
  func takeChanges() -> ServerChanges? {
    changes.withLock { waiting in
      defer { waiting = nil }
      return waiting
    }
  }
  /// They were made.
  func took(_ changes: ServerChanges) { taken.withLock { $0 = changes } }
  var isHandoverWanted: Bool { wantsHandover.load(ordering: .acquiring) }
}
