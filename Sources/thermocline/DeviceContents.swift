import Base
import CBlkid
import DiskFormat
import Glibc

/// What a device or file carries before it becomes part of a pool: libblkid knows filesystems,
/// partition tables, RAID members and swap; our own labels it does not know.
enum DeviceContents {
  /// Phrases such as `an ext4 filesystem labelled "home"`; empty when nothing is recognised.
  static func describe(_ path: String) throws -> [String] {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw Refusal("\(path) cannot be read: \(reason())") }
    defer { close(file) }
    return try signatures(file, path) + labels(file)
  }

  /// Makes every signature that libblkid finds unrecognisable, those at the device's end and of
  /// other places that the pool would not write over included.
  static func wipeSignatures(_ path: String) throws {
    let file = open(path, O_RDWR | O_CLOEXEC)
    guard file >= 0 else { throw Refusal("\(path) cannot be written: \(reason())") }
    defer { close(file) }
    let probe = try makeProbe(file, path)
    defer { blkid_free_probe(probe) }
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM)
    blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT)
    while blkid_do_probe(probe) == 0 {
      guard blkid_do_wipe(probe, 0) == 0 else {
        throw Refusal("\(path): an old signature cannot be removed: \(reason())")
      }
    }
    guard fsync(file) == 0 else { throw Refusal("\(path) cannot be flushed: \(reason())") }
  }

  private static func makeProbe(_ file: Int32, _ path: String) throws -> blkid_probe {
    guard let probe = blkid_new_probe() else { throw Refusal("libblkid has no memory") }
    guard blkid_probe_set_device(probe, file, 0, 0) == 0 else {
      blkid_free_probe(probe)
      throw Refusal("\(path) cannot be examined: \(reason())")
    }
    blkid_probe_enable_superblocks(probe, 1)
    blkid_probe_enable_partitions(probe, 1)
    return probe
  }

  private static func signatures(_ file: Int32, _ path: String) throws -> [String] {
    let probe = try makeProbe(file, path)
    defer { blkid_free_probe(probe) }
    blkid_probe_set_superblocks_flags(
      probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL | BLKID_SUBLKS_UUID | BLKID_SUBLKS_USAGE)
    switch blkid_do_safeprobe(probe) {
    case 0: return phrases(probe)
    case 1: return []
    case -2: return ["signatures of more than one filesystem"]
    default: throw Refusal("\(path) cannot be examined: \(reason())")
    }
  }

  private static func phrases(_ probe: blkid_probe) -> [String] {
    func value(_ name: String) -> String? {
      var text: UnsafePointer<CChar>? = nil
      guard blkid_probe_lookup_value(probe, name, &text, nil) == 0, let text else { return nil }
      return String(cString: text)
    }
    var phrases: [String] = []
    if let type = value("TYPE") {
      var phrase: String
      switch value("USAGE") {
      case "filesystem": phrase = "a filesystem (\(type))"
      case "raid": phrase = "a member of an array or volume group (\(type))"
      case "crypto": phrase = "an encrypted volume (\(type))"
      default: phrase = "data of type \(type)"
      }
      if let label = value("LABEL") { phrase += " labelled \"\(label)\"" }
      if let uuid = value("UUID") { phrase += ", UUID \(uuid)" }
      phrases.append(phrase)
    }
    if let table = value("PTTYPE") { phrases.append("a partition table (\(table))") }
    return phrases
  }

  private static func labels(_ file: Int32) -> [String] {
    let block = UnsafeMutableRawPointer.allocate(byteCount: Layout.metadataBlock, alignment: 4096)
    defer { block.deallocate() }
    var isDamaged = false
    for offset in [Layout.labelOffset, Layout.labelCopyOffset] {
      guard pread(file, block, Layout.metadataBlock, off_t(offset)) == Layout.metadataBlock else {
        continue
      }
      do throws(FormatError) {
        let label = try Label.decode(block)
        return ["device \(label.index.rawValue) of the Thermocline pool \(label.pool)"]
      } catch {
        switch error {
        case .notFound: continue
        case .badChecksum, .mismatch: isDamaged = true
        }
      }
    }
    return isDamaged ? ["a damaged label of a Thermocline pool, or one of another version"] : []
  }

  private static func reason() -> String { String(cString: strerror(errno)) }
}
