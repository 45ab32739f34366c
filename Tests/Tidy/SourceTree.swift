import Glibc

/// A file of the repository, by its path from the root.
struct SourceFile: Sendable {
  let path: String
  let text: String

  var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
}

/// The repository's tracked files; where git has none to tell of, all files.
enum SourceTree {
  static let root: String = {
    let here = #filePath.split(separator: "/")
    return "/" + here.dropLast(3).joined(separator: "/")
  }()

  static let files: [SourceFile] = {
    var paths = tracked()
    if paths.isEmpty { paths = walk("") }
    return paths.sorted().compactMap { path in
      read(root + "/" + path).map { SourceFile(path: path, text: $0) }
    }
  }()

  static var swift: [SourceFile] { files.filter { $0.path.hasSuffix(".swift") } }

  static func swift(under folder: String) -> [SourceFile] {
    swift.filter { $0.path.hasPrefix(folder + "/") }
  }

  static func file(_ path: String) -> SourceFile? { files.first { $0.path == path } }

  /// The names of the folders in Sources.
  static var targets: [String] {
    Set(
      files.compactMap { file in
        let parts = file.path.split(separator: "/")
        return parts.count > 2 && parts[0] == "Sources" ? String(parts[1]) : nil
      }
    ).sorted()
  }

  private static func tracked() -> [String] {
    guard let pipe = popen("git -C '\(root)' ls-files 2>/dev/null", "r") else { return [] }
    defer { pclose(pipe) }
    return contents(pipe).split(separator: "\n").map(String.init)
  }

  private static func walk(_ folder: String) -> [String] {
    guard let directory = opendir(root + "/" + folder) else { return [] }
    defer { closedir(directory) }
    var paths: [String] = []
    while let entry = readdir(directory) {
      let kind = Int32(entry.pointee.d_type)
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name == "." || name == ".." || name == ".git" || name.hasPrefix(".build") { continue }
      let path = folder.isEmpty ? name : folder + "/" + name
      if kind == Int32(DT_DIR) { paths += walk(path) }
      if kind == Int32(DT_REG) { paths.append(path) }
    }
    return paths
  }

  private static func read(_ path: String) -> String? {
    guard let file = fopen(path, "r") else { return nil }
    defer { fclose(file) }
    return contents(file)
  }

  private static func contents(_ file: UnsafeMutablePointer<FILE>) -> String {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = fread(&buffer, 1, buffer.count, file)
      if count == 0 { return String(decoding: bytes, as: UTF8.self) }
      bytes += buffer[..<count]
    }
  }
}
