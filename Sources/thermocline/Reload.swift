import Configuration
import CSystemd
import Glibc
import Logging
import RingIO
import Server

/// Reading the configuration again while clients are served, on a thread of its own: the loop only
/// takes the result.
final class Reload: Sendable {
  private let running: PoolConfiguration
  private let listeners: [Listener]
  private let mailbox: Mailbox
  private let logger: Logger

  init(
    _ configuration: PoolConfiguration, _ listeners: [Listener], _ mailbox: Mailbox,
    _ logger: Logger
  ) {
    running = configuration
    self.listeners = listeners
    self.mailbox = mailbox
    self.logger = logger
  }

  /// Begins; what comes of it is in the log.
  func begin() {
    // Threads inherit the mask: signals stay with the loop.
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { context in
        // SAFETY: retained for this thread, which releases it when it ends.
        Unmanaged<Reload>.fromOpaque(context!).takeRetainedValue().carryOut()
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
    if result == 0 {
      pthread_detach(thread)
    } else {
      logger.error("the configuration cannot be read again: no thread could be made")
    }
  }

  private func carryOut() {
    tellManager("RELOADING=1\nMONOTONIC_USEC=\(Self.microseconds())")
    defer { tellManager("READY=1") }
    do {
      let new = try PoolConfiguration.read(file: running.file)
      try ServiceManager.check(listeners, allowsRemote: new.allowsRemote)
      let changes = try new.makeChanges()
      for name in new.fixedDifferences(from: running) {
        logger.warning(
          "\(name) has changed in \(running.file): it waits for a restart or for serve --takeover")
      }
      mailbox.change(changes)
    } catch {
      logger.error("the configuration was not changed. \(error)")
    }
  }

  private func tellManager(_ text: String) { sd_notify(0, text) }

  private static func microseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
  }
}

extension PoolConfiguration {
  /// What may change while clients are served.
  func makeChanges() throws -> ServerChanges {
    var changes = ServerChanges()
    changes.limits.take(limits)
    (changes.tls, changes.credentials) = try makeCredentials()
    changes.unixUsers = try UserNames.allowed(self)
    return changes
  }

  /// Names of what differs and cannot change while clients are served.
  fileprivate func fixedDifferences(from old: PoolConfiguration) -> [String] {
    var names: [String] = []
    func compare<T: Equatable>(_ name: String, _ part: (PoolConfiguration) -> T) {
      if part(self) != part(old) { names.append(name) }
    }
    compare("memory") { $0.memory }
    compare("[volume]") { $0.volume }
    compare("[listen]") {
      var listen = $0.listen
      listen.unixUsers = nil
      listen.allowsPlaintext = false
      return listen
    }
    compare("[log]") { $0.log }
    compare("[[tier]]") { $0.tiers }
    return names
  }
}
