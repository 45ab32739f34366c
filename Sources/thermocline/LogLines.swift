import Glibc
import Logging

/// The server's log: one line an event on standard error.
///
///     2026-07-08T12:34:56Z notice: serving vol0 (connections=2, uri=nbd+unix:///…)
///
/// Below systemd the time is the journal's business, and the level goes in front as sd-daemon(3)
/// wants it.
struct LogLines: LogHandler {
  var metadataProvider: Logger.MetadataProvider?
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level
  private let isJournal = getenv("JOURNAL_STREAM") != nil

  init(level: Logger.Level) { logLevel = level }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    var line = isJournal
      ? Self.priority(event.level) : "\(Self.timestamp(time(nil))) \(event.level): "
    line += event.message.description
    let details = metadata.merging(event.metadata ?? [:]) { $1 }
    if !details.isEmpty {
      let pairs = details.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
      line += " (" + pairs.joined(separator: ", ") + ")"
    }
    // One event is one line, whatever stands in its text.
    Console.writeError(line.split(separator: "\n").joined(separator: " ") + "\n")
  }

  static func timestamp(_ seconds: time_t) -> String {
    var seconds = seconds
    var parts = tm()
    gmtime_r(&seconds, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
      + "T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
  }

  private static func priority(_ level: Logger.Level) -> String {
    switch level {
    case .trace, .debug: "<7>"
    case .info: "<6>"
    case .notice: "<5>"
    case .warning: "<4>"
    case .error: "<3>"
    case .critical: "<2>"
    }
  }
}
