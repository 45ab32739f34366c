import Glibc

/// A system call's refusal: what was tried, on what, and the kernel's reason.
package struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A positive errno.
  package let code: Int32
  /// The call, such as `bind`.
  package let call: String
  /// What it was tried on: a path, an address; empty when there is nothing to name.
  package let subject: String

  package init(_ call: String, on subject: String = "", code: Int32) {
    self.code = code
    self.call = call
    self.subject = subject
  }

  /// The error of the call that has just failed, from `errno`.
  static func last(_ call: String, on subject: String = "") -> SystemError {
    SystemError(call, on: subject, code: errno)
  }

  /// The reason in words, such as *No space left on device*.
  package var reason: String { SystemError.text(code) }

  package var description: String {
    subject.isEmpty ? "\(call): \(reason)" : "\(call) \(subject): \(reason)"
  }

  /// The words for an errno, positive or negative, so that a completion's result can be given too.
  package static func text(_ code: Int32) -> String {
    // SAFETY: glibc (2.32 and later) returns a constant or a thread's own buffer, copied at once.
    String(cString: strerror(abs(code)))
  }
}
