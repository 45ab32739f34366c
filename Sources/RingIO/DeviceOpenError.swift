/// Why a device cannot be used, and what to do about it.
package struct DeviceOpenError: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Reason: Equatable, Sendable {
    case missing
    case notPermitted
    /// Another process (or a mounted filesystem) holds it, and still did after the wait.
    case inUse
    /// Neither block device nor regular file.
    case unsuitable
    /// The same device or file is named twice; the other name is given.
    case duplicate(of: String)
    /// Its least unit of I/O, in bytes, is above 4096 or not a power of two.
    case blockSize(Int)
    /// A file to be made is there already.
    case exists
    /// The filesystem has not room enough for a file to be made.
    case noSpace
    /// It holds nothing, or less than a block.
    case empty
    case system(SystemError)
  }

  package let path: String
  package let reason: Reason
  /// Who uses it, where that is known: `process 4452 (thermocline)`.
  package var holder: String?

  package init(_ path: String, _ reason: Reason) {
    self.path = path
    self.reason = reason
  }

  init(_ path: String, _ error: SystemError) {
    self.path = path
    reason =
      switch error.code {
      case 2, 6, 19, 20: .missing  // ENOENT ENXIO ENODEV ENOTDIR
      case 1, 13, 30: .notPermitted  // EPERM EACCES EROFS
      case 16, 11, 26: .inUse  // EBUSY EAGAIN ETXTBSY
      case 17: .exists  // EEXIST
      case 28, 122, 27: .noSpace  // ENOSPC EDQUOT EFBIG
      default: .system(error)
      }
  }

  /// What happened, a clause.
  package var problem: String {
    switch reason {
    case .missing: "does not exist"
    case .notPermitted: "may not be opened"
    case .inUse: "is in use by \(holder ?? "another process")"
    case .unsuitable: "is neither a block device nor a regular file"
    case .duplicate(let other): "is the same device as \(other)"
    case .blockSize(let size): "has a logical block of \(size) bytes"
    case .exists: "exists already"
    case .noSpace: "does not fit into its filesystem"
    case .empty: "is empty"
    case .system(let error): "cannot be used (\(error.call): \(error.reason))"
    }
  }

  /// What the operator can do, a complete sentence.
  package var advice: String {
    switch reason {
    case .missing: "Check the path; for disks prefer a name below /dev/disk/by-id."
    case .notPermitted: "Run as a user who may read and write it (group disk), not read-only."
    case .inUse: "Stop the other server, or unmount the filesystem on it; see fuser and lsblk."
    case .unsuitable: "Give a disk, a partition or a file."
    case .duplicate: "Name each device once."
    case .blockSize: "Devices of 512 to 4096 bytes a logical block can be used."
    case .exists: "Remove it first if its content is not needed."
    case .noSpace: "Make it smaller, or free some space there."
    case .empty: "Give it a size first (truncate, fallocate)."
    case .system: "See the kernel's log (dmesg)."
    }
  }

  package var description: String { "\(path) \(problem). \(advice)" }
}
