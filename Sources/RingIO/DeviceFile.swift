import Glibc

/// Regular files that serve as devices: made once, at their full size.
package enum DeviceFile {
  /// How a new file gets its room.
  package enum Allocation: Sendable {
    /// All of it now: later writes cannot run out of space.
    case full
    /// On demand: quick to make, but the filesystem may fill up under the pool.
    case sparse
  }

  /// Makes a file of `size` bytes that was not there before (mode 0600) and makes its existence
  /// durable. `progress` hears of the bytes allocated so far, about once a GiB. On an error the
  /// file is gone again.
  package static func make(
    path: String, size: UInt64, allocation: Allocation = .full,
    progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
  ) throws(DeviceOpenError) {
    let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw DeviceOpenError(path, SystemError.last("open")) }
    defer { close(descriptor) }
    do throws(SystemError) {
      switch allocation {
      case .sparse:
        guard ftruncate(descriptor, off_t(size)) == 0 else { throw .last("ftruncate") }
        progress(size, size)
      case .full: try allocate(descriptor, size, progress)
      }
      guard fsync(descriptor) == 0 else { throw .last("fsync") }
      try syncDirectory(of: path)
    } catch {
      unlink(path)
      throw DeviceOpenError(path, error)
    }
  }

  private static func allocate(
    _ descriptor: Int32, _ size: UInt64, _ progress: (UInt64, UInt64) -> Void
  ) throws(SystemError) {
    var done: UInt64 = 0
    while done < size {
      let step = min(size - done, 1 << 30)
      // Where the filesystem cannot allocate, glibc writes a byte to every block: slow, but full.
      let code = posix_fallocate(descriptor, off_t(done), off_t(step))
      if code == EINTR { continue }
      guard code == 0 else { throw SystemError("fallocate", code: code) }
      done += step
      progress(done, size)
    }
  }

  private static func syncDirectory(of path: String) throws(SystemError) {
    let end = path.lastIndex(of: "/")
    let directory = end.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .last("open", on: directory) }
    defer { close(descriptor) }
    // Some filesystems know no fsync of a directory and say EINVAL: they need none.
    guard fsync(descriptor) == 0 || errno == EINVAL else { throw .last("fsync", on: directory) }
  }
}
