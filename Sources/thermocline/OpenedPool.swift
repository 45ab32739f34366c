import Base
import Configuration
import DeviceIO
import DiskFormat
import Glibc
import RingIO

/// The devices of a configuration, opened, owned and found to be one whole pool.
struct OpenedPool {
  let devices: RingWaitingDevices
  let label: Label
  /// The newest valid superblock.
  let superblock: Superblock
  /// What was survived, or is done without: complete sentences for the log.
  let notes: [String]

  /// Opens the devices and refuses what does not belong together, naming device and reason.
  static func open(
    _ configuration: PoolConfiguration, access: DeviceAccess,
    patience: Milliseconds = Milliseconds(5000)
  ) throws -> OpenedPool {
    let named = configuration.devices
    let set = try DeviceSet(
      named.map(\.settings.request), access: access, patience: patience)
    let devices = try RingWaitingDevices(set)
    let candidates = named.enumerated().map { index, device in
      PoolMembership.Candidate(
        path: device.settings.path, tier: device.tier,
        size: set.geometry(of: DeviceIndex(index)).size,
        finding: findLabel(devices, DeviceIndex(index)))
    }
    let verdict = PoolMembership.judge(candidates)
    guard verdict.refusals.isEmpty, let label = candidates[0].label else {
      throw Refusal(
        lines: verdict.refusals + [
          "Nothing was changed. \(configuration.file) must name the devices of one pool, in its "
            + "order; `thermocline inspect label --config \(configuration.file)` shows what each "
            + "of them is."
        ])
    }
    var notes = set.notes + devices.notes + verdict.notes
    let superblock = try newestSuperblock(devices, label, candidates[0].path, &notes)
    try checkAgreement(configuration, superblock)
    if configuration.volume.size < superblock.volumeSize {
      notes.append(
        "volume.size in \(configuration.file) says \(SizeText.exact(configuration.volume.size)), "
          + "but the volume has \(SizeText.exact(superblock.volumeSize)): it can grow, but not "
          + "shrink, and stays as it is.")
    }
    return OpenedPool(devices: devices, label: label, superblock: superblock, notes: notes)
  }

  private static func findLabel(
    _ devices: RingWaitingDevices, _ device: DeviceIndex
  ) -> PoolMembership.Finding {
    var labels: [Label] = []
    var isDamaged = false
    var failure: String?
    for offset in [Layout.labelOffset, Layout.labelCopyOffset] {
      do {
        labels.append(try MetadataBlock.read(devices, device, offset, Label.decode))
      } catch let error as FormatError {
        if error != .notFound { isDamaged = true }
      } catch {
        failure = "\(error)"
      }
    }
    switch labels.count {
    case 2 where labels[0] == labels[1]: return .label(labels[0])
    // Format writes both copies; where they differ, it did not end.
    case 2: return .damaged
    case 1: return .oneCopy(labels[0])
    default:
      if let failure { return .unreadable(reason: failure) }
      return isDamaged ? .damaged : .none
    }
  }

  /// Both copies are read; one bad copy is survived and noted.
  private static func newestSuperblock(
    _ devices: RingWaitingDevices, _ label: Label, _ path: String, _ notes: inout [String]
  ) throws -> Superblock {
    var valid: [Superblock] = []
    var problems: [String] = []
    let copies = [("A", Layout.superblockOffsets.a), ("B", Layout.superblockOffsets.b)]
    for (name, offset) in copies {
      do {
        valid.append(
          try MetadataBlock.read(devices, DeviceIndex(0), offset) { bytes throws(FormatError) in
            try Superblock.decode(bytes, pool: label.pool)
          })
      } catch {
        problems.append("superblock \(name) at byte \(offset) of \(path): \(describe(error))")
      }
    }
    guard let newest = valid.max(by: { $0.serial < $1.serial }) else {
      throw Refusal(
        lines: ["The pool has no valid superblock."] + problems.map { $0 + "." } + [
          "Nothing was changed. Without either copy the pool cannot be opened: restore \(path) "
            + "from a copy, or make a new pool with format."
        ])
    }
    notes += problems.map { $0 + "; the other copy is used." }
    return newest
  }

  private static func checkAgreement(
    _ configuration: PoolConfiguration, _ superblock: Superblock
  ) throws {
    var mistakes: [ConfigurationMistake] = []
    func compare(_ key: String, _ formatted: String, _ configured: String) {
      guard formatted != configured else { return }
      mistakes.append(
        configuration.mistake(
          at: key, expected: "\(formatted), as the pool was formatted", found: configured))
    }
    compare("volume.name", superblock.volumeName, configuration.volume.name)
    if let size = configuration.log.size {
      let segment = UInt64(superblock.log.segmentSize)
      compare(
        "log.size", SizeText.exact(superblock.log.areaSize),
        SizeText.exact(size / segment * segment))
    }
    for (index, name) in superblock.tierNames.enumerated() where index < configuration.tiers.count {
      compare("tier[\(index)].name", name, configuration.tiers[index].name)
    }
    guard mistakes.isEmpty else { throw ConfigurationError(mistakes: mistakes) }
  }

  static func describe(_ error: any Error) -> String {
    guard let error = error as? FormatError else { return "\(error)" }
    switch error {
    case .notFound: return "not there"
    case .badChecksum: return "its checksum does not match"
    case .mismatch(let what): return what
    }
  }
}

extension DeviceSettings {
  /// How to open the device.
  var request: DeviceRequest { DeviceRequest(path: path, isRotational: isRotational) }
}

/// Reading single metadata blocks of 4 KiB from opened devices.
enum MetadataBlock {
  /// Reads the block at `offset` and decodes it.
  static func read<Value>(
    _ devices: any WaitingDevices, _ device: DeviceIndex, _ offset: UInt64,
    _ decode: (UnsafeRawPointer) throws(FormatError) -> Value
  ) throws -> Value {
    let block = UnsafeMutableRawPointer.allocate(byteCount: Layout.metadataBlock, alignment: 4096)
    // SAFETY: the read has ended when `read(into:…)` returns; the block lives until then.
    defer { block.deallocate() }
    try read(devices, device, offset, into: block, count: Layout.metadataBlock)
    return try decode(block)
  }

  /// Reads `count` bytes at `offset` into memory that is aligned to 4 KiB.
  static func read(
    _ devices: any WaitingDevices, _ device: DeviceIndex, _ offset: UInt64,
    into memory: UnsafeMutableRawPointer, count: Int
  ) throws {
    let operation = DeviceOperation(
      .read, device: device, offset: offset, length: count, memory: memory, token: 0)
    var result: Int32 = 0
    withUnsafePointer(to: operation) { operation in
      withUnsafeMutablePointer(to: &result) { result in
        devices.perform(
          UnsafeBufferPointer(start: operation, count: 1),
          results: UnsafeMutableBufferPointer(start: result, count: 1))
      }
    }
    guard result >= 0 else { throw Refusal(SystemError.text(result)) }
  }
}
