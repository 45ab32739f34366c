package import Base
package import DiskFormat

/// What an operator must know: for the server's log. Values, so that the engine makes no text.
package enum VolumeEvent: Sendable {
  case superblockCopyBad(copy: Int)
  case damagedPage(PageAddress)
  case damagedBitmap(DeviceIndex)
  case checksumError(DeviceIndex, volumeOffset: UInt64)
  case readError(DeviceIndex, volumeOffset: UInt64)
  case writeError(DeviceIndex)
  case appendFailed
  case flushFailed(DeviceIndex)
  case batchRolledBack
  case lostBlocks(ExtentIndex, mask: UInt16)
  case recovered(entries: UInt64, fromRing: Bool)
  case ringAbsent
  /// Bytes of the volume.
  case grown(from: UInt64, to: UInt64)
}

extension VolumeEvent: CustomStringConvertible {
  /// One sentence for the log.
  package var description: String {
    switch self {
    case .superblockCopyBad(let copy):
      "superblock copy \(copy == 0 ? "A" : "B") is damaged; "
        + "the other one is used and copied over it"
    case .damagedPage(let a) where a.level == 0 && a.tree == .extents:
      "extent table page \(a.index) is damaged: volume bytes from "
        + "\(a.index * UInt64(Page.recordsPerPage * Size.extent)) to "
        + "\((a.index + 1) * UInt64(Page.recordsPerPage * Size.extent)) are lost until overwritten"
    case .damagedPage(let a):
      "page \(a.index) of level \(a.level) of the \(a.tree) tree is damaged: what it describes is "
        + "lost until overwritten"
    case .damagedBitmap(let d):
      "allocation bitmap of device \(d.rawValue) is damaged; it is rebuilt from the extent table"
    case .checksumError(let d, let offset):
      "device \(d.rawValue) returned wrong data for volume offset \(offset)"
    case .readError(let d, let offset):
      "device \(d.rawValue) failed to read volume offset \(offset)"
    case .writeError(let d): "device \(d.rawValue) failed a write"
    case .appendFailed: "an append to the log failed; it is written again elsewhere"
    case .flushFailed(let d):
      "device \(d.rawValue) failed a flush; everything since its last good flush is written again"
    case .batchRolledBack: "the batch under way was rolled back and will be done again"
    case .lostBlocks(let e, let mask):
      "extent \(e.rawValue): blocks \(String(mask, radix: 2)) are lost until overwritten"
    case .recovered(let entries, let fromRing):
      "recovered \(entries) log entries\(fromRing ? ", the newest from the staging ring" : "")"
    case .ringAbsent:
      "no usable tmpfs for the staging ring: writes are acknowledged after the append"
    case .grown(let old, let new): "the volume has grown from \(old) to \(new) bytes"
    }
  }
}

/// A bounded queue of events; when it is full the oldest go.
struct EventQueue {
  private var items = [64 of VolumeEvent](repeating: .appendFailed)
  private var head = 0
  private var count = 0

  mutating func push(_ e: VolumeEvent) {
    items[(head + count) & 63] = e
    if count == 64 { head = (head + 1) & 63 } else { count += 1 }
  }

  mutating func pop() -> VolumeEvent? {
    guard count > 0 else { return nil }
    defer {
      head = (head + 1) & 63
      count -= 1
    }
    return items[head]
  }
}
