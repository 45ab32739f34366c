package import Base
internal import CPlatform
import Glibc

/// Why there is no place for a staging ring, or not this one.
package struct StagingError: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Reason: Equatable, Sendable {
    /// The directory lies on a filesystem that is not in memory.
    case notInMemory
    /// The directory (or file) belongs to somebody else, is open to others, or is a link.
    case notOurs
    /// A file to be made is there already.
    case exists
    /// The filesystem, or the machine's memory, has no room for `bytes`.
    case noSpace(bytes: Int)
    /// No directory of the default ones can be used.
    case nowhere
    case system(SystemError)
  }

  package let path: String
  package let reason: Reason

  package var description: String {
    switch reason {
    case .notInMemory:
      "\(path) does not lie in memory (tmpfs): a staging ring there would cost a device write for "
        + "every write. Choose another directory."
    case .notOurs:
      "\(path) must be a directory or file of this user that others may not write, and no link "
        + "made by somebody else."
    case .exists: "\(path) exists already."
    case .noSpace(let bytes):
      "\(path) has no room for \(bytes >> 20) MiB. Enlarge the tmpfs, or lower the memory."
    case .nowhere:
      "None of \(path) can be used: no tmpfs, or no permission. Name a directory on tmpfs."
    case .system(let error): "\(path): \(error.call): \(error.reason)."
    }
  }
}

/// The place of staging rings: files on tmpfs, which outlive the process but not the machine.
///
/// The default is the first usable of `/run/thermocline`, `$XDG_RUNTIME_DIR/thermocline` and
/// `/dev/shm/thermocline-<uid>`. A ring that exists is looked for in all of them, so that a server
/// restarted with another environment still finds it. A configured directory is the only place.
///
/// Invariants:
/// - T1: a file's memory is really there before it is used; else a write meets SIGBUS.
/// - T2: files are made with `O_EXCL` and mode 0600, in a directory of this user's: a link planted
///   by somebody else is not followed.
package final class StagingDirectory {
  /// Where new rings are made.
  package let path: String
  /// Where existing rings are looked for; the first is `path`.
  package let places: [String]

  /// The configured directory, or the first usable default one, made if need be (mode 0700).
  package init(configured: String? = nil) throws(StagingError) {
    if let configured {
      try StagingDirectory.prepare(configured)
      path = configured
      places = [configured]
      return
    }
    let candidates = StagingDirectory.candidates()
    var first: String? = nil
    for place in candidates where first == nil {
      do throws(StagingError) {
        try StagingDirectory.prepare(place)
        first = place
      } catch {
        continue
      }
    }
    guard let first else {
      throw StagingError(path: candidates.joined(separator: ", "), reason: .nowhere)
    }
    path = first
    places = [first] + candidates.filter { $0 != first }
  }

  /// The ring with that id, mapped, or nil when there is none.
  package func open(
    pool: Identity, ring: UInt64
  ) throws(StagingError) -> UnsafeMutableRawBufferPointer? {
    for place in places {
      let file = place + "/" + StagingDirectory.fileName(pool: pool, ring: ring)
      let descriptor = Glibc.open(file, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
      if descriptor < 0 {
        if errno == ENOENT || errno == ENOTDIR { continue }
        // A default place that this user may not look into is not where this user put a ring.
        if errno == EACCES, place != path { continue }
        throw StagingError(path: file, reason: .system(.last("open")))
      }
      defer { close(descriptor) }
      var facts = stat()
      guard fstat(descriptor, &facts) == 0 else {
        throw StagingError(path: file, reason: .system(.last("fstat")))
      }
      guard facts.st_mode & S_IFMT == S_IFREG, facts.st_uid == geteuid() else {
        throw StagingError(path: file, reason: .notOurs)
      }
      let size = Int(facts.st_size)
      // A file cut off while it was being made holds nothing that was ever acknowledged.
      guard size > 0, size & 4095 == 0 else { continue }
      return try StagingDirectory.map(descriptor, size, file)
    }
    return nil
  }

  /// A new ring of `size` bytes (whole pages), zero-filled, its memory allocated.
  package func create(
    pool: Identity, ring: UInt64, size: Int
  ) throws(StagingError) -> UnsafeMutableRawBufferPointer {
    invariant(size > 0 && size & 4095 == 0, "T1: a staging ring is whole pages")
    let file = path + "/" + StagingDirectory.fileName(pool: pool, ring: ring)
    let flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW
    let descriptor = Glibc.open(file, flags, 0o600)
    guard descriptor >= 0 else {
      let error = SystemError.last("open")
      throw StagingError(path: file, reason: error.code == EEXIST ? .exists : .system(error))
    }
    defer { close(descriptor) }
    do throws(StagingError) {
      return try StagingDirectory.map(descriptor, size, file)
    } catch {
      unlink(file)
      throw error
    }
  }

  /// Removes the ring with that id wherever it lies; without complaint when there is none. A
  /// mapping stays usable until it is unmapped or the process ends.
  package func remove(pool: Identity, ring: UInt64) {
    for place in places { unlink(place + "/" + StagingDirectory.fileName(pool: pool, ring: ring)) }
  }

  /// Ends a mapping; nothing uses it any more.
  package func unmap(_ memory: UnsafeMutableRawBufferPointer) {
    munmap(memory.baseAddress, memory.count)
  }

  /// The name of a ring's file: the pool's uuid, a dot, the ring's id as sixteen hex digits.
  package static func fileName(pool: Identity, ring: UInt64) -> String {
    let digits = String(ring, radix: 16)
    return "\(pool)." + String(repeating: "0", count: 16 - digits.count) + digits
  }
}

extension StagingDirectory {
  private static func candidates() -> [String] {
    var places = ["/run/thermocline"]
    if let runtime = getenv("XDG_RUNTIME_DIR") {
      let directory = String(cString: runtime)
      if directory.hasPrefix("/") { places.append(directory + "/thermocline") }
    }
    places.append("/dev/shm/thermocline-\(geteuid())")
    return places
  }

  /// Makes the directory if it is missing, and checks that it is ours (T2) and in memory.
  private static func prepare(_ path: String) throws(StagingError) {
    let isNew = mkdir(path, 0o700) == 0
    guard isNew || errno == EEXIST else {
      throw StagingError(path: path, reason: .system(.last("mkdir")))
    }
    do throws(StagingError) {
      try examine(path)
    } catch {
      if isNew { rmdir(path) }
      throw error
    }
  }

  private static func examine(_ path: String) throws(StagingError) {
    var facts = stat()
    guard lstat(path, &facts) == 0 else {
      throw StagingError(path: path, reason: .system(.last("lstat")))
    }
    // A link made by root (systemd makes one for DynamicUser) is as good as a directory.
    if facts.st_mode & S_IFMT == S_IFLNK, facts.st_uid == 0, stat(path, &facts) != 0 {
      throw StagingError(path: path, reason: .system(.last("stat")))
    }
    guard facts.st_mode & S_IFMT == S_IFDIR, facts.st_uid == geteuid(), facts.st_mode & 0o022 == 0
    else { throw StagingError(path: path, reason: .notOurs) }
    let inMemory = platform_is_memory_filesystem(path)
    if inMemory < 0 {
      throw StagingError(path: path, reason: .system(SystemError("statfs", code: -inMemory)))
    }
    guard inMemory == 1 else { throw StagingError(path: path, reason: .notInMemory) }
  }

  /// Allocates (T1) and maps a whole file.
  private static func map(
    _ descriptor: Int32, _ size: Int, _ file: String
  ) throws(StagingError) -> UnsafeMutableRawBufferPointer {
    let code = posix_fallocate(descriptor, 0, off_t(size))
    guard code == 0 else {
      let isFull = code == ENOSPC || code == ENOMEM || code == EFBIG || code == EDQUOT
      throw StagingError(
        path: file,
        reason: isFull ? .noSpace(bytes: size) : .system(SystemError("fallocate", code: code)))
    }
    let map = mmap(
      nil, size, PROT_READ | PROT_WRITE, Int32(MAP_SHARED) | Int32(MAP_POPULATE), descriptor, 0)
    guard let map, map != MAP_FAILED else {
      throw StagingError(path: file, reason: .system(.last("mmap")))
    }
    return UnsafeMutableRawBufferPointer(start: map, count: size)
  }
}
