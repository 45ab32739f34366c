internal import CPlatform
import Glibc

/// Wakes the loop from another thread: an eventfd that the loop reads through its ring.
package struct WakeUp: Sendable {
  package let descriptor: Int32
  /// What a read of it fills: a count of signals since the last read.
  package static let messageSize = 8

  package init() throws(SystemError) {
    let result = platform_event_descriptor()
    guard result >= 0 else { throw SystemError("eventfd", code: -result) }
    descriptor = result
  }

  /// Makes the loop's read complete. From any thread; several before one read count as one.
  package func signal() {
    var one: UInt64 = 1
    _ = write(descriptor, &one, 8)
  }

  package func close() { Glibc.close(descriptor) }
}

/// Signals as messages that the loop reads through its ring.
package struct SignalDescriptor: Sendable {
  package let descriptor: Int32
  /// What a read of it fills: one `signalfd_siginfo`.
  package static let messageSize = 128

  /// Blocks `signals` for the calling thread and every thread it makes later: call it first of
  /// all, in the main thread. They are then delivered only here.
  package init(_ signals: [Int32]) throws(SystemError) {
    let result = signals.withUnsafeBufferPointer {
      platform_signal_descriptor($0.baseAddress, UInt32($0.count))
    }
    guard result >= 0 else { throw SystemError("signalfd", code: -result) }
    descriptor = result
  }

  /// The signal's number in a message that was read.
  package static func number(in message: UnsafeRawPointer) -> Int32 {
    Int32(message.load(as: UInt32.self))
  }

  /// SIGTERM or SIGINT has come, and was not read.
  package static var isStopPending: Bool {
    var pending = sigset_t()
    sigpending(&pending)
    return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1
  }

  package func close() { Glibc.close(descriptor) }
}
