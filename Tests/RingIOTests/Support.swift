import Base
import DeviceIO
import Glibc
import RingIO

/// A directory of the test's own, removed with everything in it.
final class TemporaryDirectory {
  let path: String

  init(below parent: String = "/tmp") {
    var template = Array("\(parent)/ring-test-XXXXXX".utf8CString)
    _ = mkdtemp(&template)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { Command.run(["rm", "-rf", path]) }

  /// A file of `size` bytes, fully allocated.
  func file(_ name: String, size: UInt64) throws -> String {
    let full = path + "/" + name
    try DeviceFile.make(path: full, size: size)
    return full
  }
}

/// Runs commands, found through PATH, and waits for them.
enum Command {
  @discardableResult
  static func run(_ arguments: [String]) -> Int32 {
    guard let process = start(arguments) else { return -1 }
    return wait(for: process)
  }

  static func start(_ arguments: [String], output: Int32? = nil) -> pid_t? {
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
    words.append(nil)
    defer { for word in words { free(word) } }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    if let output { posix_spawn_file_actions_adddup2(&actions, output, 1) }
    defer { posix_spawn_file_actions_destroy(&actions) }
    var process: pid_t = 0
    guard let name = words[0] else { return nil }
    return posix_spawnp(&process, name, &actions, nil, words, environ) == 0 ? process : nil
  }

  static func wait(for process: pid_t) -> Int32 {
    var status: Int32 = 0
    waitpid(process, &status, 0)
    return (status >> 8) & 0xff
  }

  /// What a command prints, without the last line's end; nil when it fails.
  static func output(_ arguments: [String]) -> String? {
    var ends: [Int32] = [-1, -1]
    pipe(&ends)
    let process = start(arguments, output: ends[1])
    close(ends[1])
    defer { close(ends[0]) }
    guard let process else { return nil }
    var bytes = [UInt8](repeating: 0, count: 4096)
    var text: [UInt8] = []
    while case let count = read(ends[0], &bytes, bytes.count), count > 0 {
      text += bytes[..<count]
    }
    guard wait(for: process) == 0 else { return nil }
    while text.last == 10 { text.removeLast() }
    return String(decoding: text, as: UTF8.self)
  }
}

/// A loop device over a file; nil where it cannot be had (no root, no module).
final class LoopDevice {
  let path: String

  init?(over file: String, sector: Int) {
    let made = Command.output(
      ["losetup", "--find", "--show", "--sector-size", String(sector), file])
    guard let made, made.hasPrefix("/dev/loop") else { return nil }
    path = made
  }

  deinit { Command.run(["losetup", "--detach", path]) }
}

/// Memory on whole pages.
final class Pages {
  let base: UnsafeMutableRawPointer
  let count: Int

  init(_ count: Int) {
    self.count = count
    base = .allocate(byteCount: count, alignment: 4096)
    base.zero(count)
  }

  deinit { base.deallocate() }

  /// Fills with a pattern that tells every 8 bytes of every seed apart.
  func fill(_ seed: UInt64) {
    for i in stride(from: 0, to: count, by: 8) {
      base.put64(i, (seed &+ UInt64(i)) &* 0x9e37_79b9_7f4a_7c15)
    }
  }

  func equals(_ other: Pages) -> Bool {
    count == other.count && memcmp(base, other.base, count) == 0
  }

  var isZero: Bool {
    for i in stride(from: 0, to: count, by: 8) where UnsafeRawPointer(base).u64(i) != 0 {
      return false
    }
    return true
  }
}

extension RingWaitingDevices {
  /// One operation and its result.
  func perform(_ operation: DeviceOperation) -> Int32 {
    var result: Int32 = .min
    withUnsafePointer(to: operation) { operation in
      withUnsafeMutablePointer(to: &result) { result in
        perform(
          UnsafeBufferPointer(start: operation, count: 1),
          results: UnsafeMutableBufferPointer(start: result, count: 1))
      }
    }
    return result
  }

  func perform(_ operations: [DeviceOperation]) -> [Int32] {
    var results = [Int32](repeating: .min, count: operations.count)
    operations.withUnsafeBufferPointer { operations in
      results.withUnsafeMutableBufferPointer { perform(operations, results: $0) }
    }
    return results
  }
}
