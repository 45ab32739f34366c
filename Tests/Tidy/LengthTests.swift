import Testing

private let longestLine = 100
private let longestFile = 400
private let longestFunction = 60

// Exceptions: what may be longer, and how long at most. One that is no longer needed fails.

/// Files that have lines of more than 100 columns, and how many at most.
private let longLines: [String: Int] = [:]

/// Files that may have more than 400 lines, and how many.
private let longFiles: [String: Int] = [:]

/// Functions that may have more than 60 lines, by path and name, and how many.
private let longFunctions: [String: Int] = [:]

@Suite struct LengthTests {
  @Test func linesFitIntoTheWindow() {
    var exceptions = longLines
    for file in SourceTree.swift {
      var long: [Int] = []
      for (i, line) in file.lines.enumerated() where line.utf8.count > longestLine {
        if line.count > longestLine { long.append(i + 1) }
      }
      if long.isEmpty { continue }
      let allowed = exceptions.removeValue(forKey: file.path) ?? 0
      #expect(long.count <= allowed, "\(file.path), lines \(long)")
    }
    #expect(exceptions.isEmpty, "exceptions no longer needed")
  }

  @Test func filesAreShort() {
    var exceptions = longFiles
    for file in SourceTree.swift {
      let count = file.lines.count - (file.text.hasSuffix("\n") ? 1 : 0)
      if count <= longestFile { continue }
      let allowed = exceptions.removeValue(forKey: file.path) ?? longestFile
      #expect(count <= allowed, "\(file.path) has \(count) lines")
    }
    #expect(exceptions.isEmpty, "exceptions no longer needed")
  }

  @Test func functionsAreShort() {
    var exceptions = longFunctions
    for file in SourceTree.swift {
      for function in SwiftText(file.text).functions() {
        if function.lineCount <= longestFunction { continue }
        let name = file.path + " " + function.name
        let allowed = exceptions.removeValue(forKey: name) ?? longestFunction
        #expect(
          function.lineCount <= allowed,
          "\(name), line \(function.firstLine), has \(function.lineCount) lines")
      }
    }
    #expect(exceptions.isEmpty, "exceptions no longer needed")
  }
}
