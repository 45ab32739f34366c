/// One thing wrong with the file.
package struct ConfigurationMistake: Error, Sendable, Equatable, CustomStringConvertible {
  package var file: String
  /// Counted from 1; nil when nothing in the file is to blame (such as a file that is missing).
  package var line: Int?
  /// The key's path, such as `tier[0].devices[1].size`; empty for the file as a whole.
  package var key: String
  package var expected: String
  package var found: String

  package var description: String {
    let place = line.map { "\(file):\($0)" } ?? file
    let subject = key.isEmpty ? "" : " \(key):"
    return "\(place):\(subject) expected \(expected), found \(found)"
  }
}

/// Everything wrong with the file, in the order of its lines.
package struct ConfigurationError: Error, Sendable, CustomStringConvertible {
  package var mistakes: [ConfigurationMistake]
  package init(mistakes: [ConfigurationMistake]) { self.mistakes = mistakes }
  package var description: String { mistakes.map(\.description).joined(separator: "\n") }
}
