import Configuration
import Glibc

/// What is said to the person in front of the program. Results go to standard output, everything
/// else to standard error.
enum Console {
  static func complain(_ text: String) {
    for line in text.split(separator: "\n") { writeError("thermocline: \(line)\n") }
  }

  static func tell(_ text: String) { writeError(text + "\n") }

  static func printResult(_ bytes: [UInt8]) { writeAll(bytes, to: STDOUT_FILENO) }

  static func printResult(_ text: String) { printResult(Array((text + "\n").utf8)) }

  /// Asks for a yes on the terminal; without a terminal nobody is asked and the answer is yes.
  static func confirm(_ question: String) -> Bool {
    guard isatty(STDIN_FILENO) == 1, isatty(STDERR_FILENO) == 1 else { return true }
    writeError("\(question) Type yes to go on: ")
    return readLine() == "yes"
  }

  static func writeError(_ text: String) { writeAll(Array(text.utf8), to: STDERR_FILENO) }

  private static func writeAll(_ bytes: [UInt8], to file: Int32) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }
}

/// One line on a terminal that shows how far a long piece of work is; silent in a pipe.
package struct ProgressLine {
  private let label: String
  private let isShown = isatty(STDERR_FILENO) == 1
  private let begun = ProgressLine.now()
  private var shown = 0.0

  init(_ label: String) { self.label = label }

  /// Shows `done` of `total` bytes, at most ten times a second.
  mutating func show(_ done: UInt64, of total: UInt64) {
    let now = ProgressLine.now()
    guard isShown, total > 0, now - shown >= 0.1 else { return }
    shown = now
    Console.writeError(
      "\r\u{1b}[K" + ProgressLine.text(label, done, of: total, seconds: now - begun))
  }

  /// Removes the line.
  func finish() {
    if isShown, shown > 0 { Console.writeError("\r\u{1b}[K") }
  }

  /// The line: amount, rate and time left.
  package static func text(
    _ label: String, _ done: UInt64, of total: UInt64, seconds: Double
  ) -> String {
    var line = "\(label): \(SizeText.rounded(done)) of \(SizeText.rounded(total))"
    let rate = seconds > 0 ? Double(done) / seconds : 0
    guard rate >= 1, done < total else { return line }
    line += ", \(SizeText.rounded(UInt64(rate)))/s"
    // The first second says little about the rest.
    guard seconds >= 1 else { return line }
    return line + ", \(duration(UInt64((Double(total - done) / rate).rounded(.up)))) left"
  }

  /// `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
  package static func duration(_ seconds: UInt64) -> String {
    switch seconds {
    case ..<60: "\(seconds) s"
    case ..<3600: "\(seconds / 60) min \(seconds % 60) s"
    case ..<86400: "\(seconds / 3600) h \(seconds % 3600 / 60) min"
    default: "\(seconds / 86400) d \(seconds % 86400 / 3600) h"
    }
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}
