import Testing

/// Arrows between the rooms: a target imports only what stands here. README.md shows the same
/// table to people.
private let arrows: [String: Set<String>] = [
  "Base": ["CISAL", "Glibc", "Synchronization"],
  "DiskFormat": ["Base"],
  "DeviceIO": ["Base"],
  "VolumeEngine": ["Base", "DiskFormat", "DeviceIO"],
  "Rebalancing": ["Base", "Glibc"],
  "NBDProtocol": ["Base"],
  "TLS": ["Base", "CGnuTLS", "Glibc"],
  "RingIO": ["Base", "DeviceIO", "CURing", "CPlatform", "Glibc"],
  "Server": [
    "Base", "DiskFormat", "DeviceIO", "VolumeEngine", "Rebalancing", "NBDProtocol", "RingIO",
    "TLS", "Logging", "Glibc", "Synchronization",
  ],
  "Administration": [
    "Base", "VolumeEngine", "Glibc", "Synchronization", "FoundationEssentials",
  ],
  "Configuration": ["Base", "DiskFormat", "TOMLKit", "Glibc"],
  "thermocline": [
    "Base", "DiskFormat", "DeviceIO", "VolumeEngine", "Rebalancing", "NBDProtocol", "RingIO",
    "Server", "TLS", "Administration", "Configuration", "CBlkid", "CSystemd", "CPlatform",
    "CNetlink", "CLibNBD",
    "Logging", "ArgumentParser", "Glibc", "Synchronization", "FoundationEssentials",
  ],
  "CPlatform": [], "CURing": [], "CISAL": [], "CBlkid": [], "CSystemd": [], "CLibNBD": [],
  "CNetlink": [],
  "CGnuTLS": [],
]

/// The module that a line imports, if it is an import.
func importedModule(_ line: Substring) -> String? {
  var words = line.prefix { $0 != "/" }.split { $0 == " " }
  while let word = words.first, word.hasPrefix("@") || modifiers.contains(word) {
    words.removeFirst()
  }
  guard words.first == "import", words.count > 1 else { return nil }
  let name = kinds.contains(words[1]) && words.count > 2 ? words[2] : words[1]
  return String(name.prefix { $0 != "." && $0 != ";" })
}

private let modifiers: Set<Substring> = [
  "public", "package", "internal", "fileprivate", "private", "nonisolated",
]
private let kinds: Set<Substring> = [
  "struct", "class", "enum", "protocol", "typealias", "func", "let", "var",
]

@Suite struct ArrowTests {
  @Test func importLinesAreRead() {
    #expect(importedModule("import Base") == "Base")
    #expect(importedModule("package import DeviceIO  // why") == "DeviceIO")
    #expect(importedModule("@preconcurrency internal import struct Glibc.stat") == "Glibc")
    #expect(importedModule("importBase") == nil)
    #expect(importedModule("let import = 1") == nil)
  }

  @Test func everyTargetHasItsArrows() {
    #expect(SourceTree.targets == arrows.keys.sorted())
  }

  @Test(arguments: arrows.keys.sorted()) func aTargetImportsOnlyWhatItMay(target: String) {
    for file in SourceTree.swift(under: "Sources/" + target) {
      for (i, line) in file.lines.enumerated() {
        guard let module = importedModule(line) else { continue }
        #expect(arrows[target]!.contains(module), "\(file.path):\(i + 1) imports \(module)")
      }
    }
  }

  @Test(.enabled(if: SourceTree.file("README.md") != nil))
  func theReadmeNamesEveryTarget() throws {
    let readme = try #require(SourceTree.file("README.md")).text
    for target in SourceTree.targets { #expect(readme.contains(target), "\(target)") }
  }
}
