import Base
import Configuration
import DiskFormat
import RingIO

/// What `inspect` found, as JSON and as text.
struct InspectReport: Encodable {
  struct LabelView: Encodable {
    var path: String
    var byteOffset: UInt64
    /// `valid`, or why it is not.
    var verdict: String
    var pool: String?
    var device: String?
    var index: Int?
    var tier: Int?
    var deviceCount: Int?
    var sizeBytes: UInt64?
  }

  struct SuperblockView: Encodable {
    var copy: String
    var byteOffset: UInt64
    var verdict: String
    var content: SuperblockContent?
  }

  var labels: [LabelView]? = []
  var superblocks: [SuperblockView]? = []
  var segments: [SegmentView]?
  var records: [RecordView]?
  var pages: [PageView]?
  /// Which of the lists above were ended by the limit.
  var cut: [String] = []
  /// Structures that are not valid, a sentence each.
  var problems: [String] = []

  var text: String {
    var lines: [String] = []
    for label in labels ?? [] {
      lines.append("label of \(label.path) at byte \(label.byteOffset): \(label.verdict)")
      guard let pool = label.pool, let device = label.device else { continue }
      lines += [
        "  pool    \(pool)", "  device  \(device)",
        "  place   \(label.index ?? 0) of \(label.deviceCount ?? 0), tier \(label.tier ?? 0), "
          + "\(SizeText.rounded(label.sizeBytes ?? 0))",
      ]
    }
    for superblock in superblocks ?? [] {
      lines.append(
        "superblock \(superblock.copy) at byte \(superblock.byteOffset): \(superblock.verdict)")
      lines += superblock.content?.lines ?? []
    }
    if let segments { lines += SegmentView.lines(segments) }
    if let records { lines += RecordView.lines(records) }
    if let pages { lines += PageView.lines(pages) }
    lines += cut.map { "There are more \($0): --limit says how many are printed." }
    return (lines + problems.map { "not valid: \($0)" }).joined(separator: "\n")
  }

  /// Reads both copies of every label; gives the valid one of each device.
  mutating func readLabels(_ devices: RingWaitingDevices, _ paths: [String]) -> [Label?] {
    paths.enumerated().map { index, path in
      var found: Label?
      for offset in [Layout.labelOffset, Layout.labelCopyOffset] {
        var view = LabelView(path: path, byteOffset: offset, verdict: "valid")
        do {
          let label = try MetadataBlock.read(devices, DeviceIndex(index), offset, Label.decode)
          found = label
          view.pool = "\(label.pool)"
          view.device = "\(label.device)"
          view.index = label.index.index
          view.tier = label.tier.index
          view.deviceCount = Int(label.deviceCount)
          view.sizeBytes = label.size
        } catch {
          view.verdict = OpenedPool.describe(error)
          problems.append("label of \(path) at byte \(offset): \(view.verdict)")
        }
        labels?.append(view)
      }
      return found
    }
  }

  /// Reads both superblocks; gives the newest valid one.
  mutating func readSuperblocks(_ devices: RingWaitingDevices, _ pool: Identity) -> Superblock? {
    var newest: Superblock?
    let copies = [("A", Layout.superblockOffsets.a), ("B", Layout.superblockOffsets.b)]
    for (copy, offset) in copies {
      var view = SuperblockView(copy: copy, byteOffset: offset, verdict: "valid")
      do {
        let superblock = try MetadataBlock.read(devices, DeviceIndex(0), offset) {
          bytes throws(FormatError) in try Superblock.decode(bytes, pool: pool)
        }
        view.content = SuperblockContent(superblock)
        if superblock.serial > newest?.serial ?? 0 { newest = superblock }
      } catch {
        view.verdict = OpenedPool.describe(error)
        problems.append("superblock \(copy): \(view.verdict)")
      }
      superblocks?.append(view)
    }
    return newest
  }
}

/// A superblock's fields.
struct SuperblockContent: Encodable {
  struct Device: Encodable {
    var identity: String
    var tier: Int
    var state: String
    var sizeBytes: UInt64
  }

  var serial: UInt64
  var incarnation: UInt64
  var bootId: String
  var ringId: String
  var clean: Bool
  var epoch: UInt32
  var boundary: UInt64
  var boundaryCrc: String
  var watermark: UInt64
  var nextSegmentSerial: UInt64
  var chunkCount: UInt64
  var logOffset: UInt64
  var logSegmentBytes: Int
  var logSegments: Int
  var logBlockBytes: Int
  var volumeName: String
  var volumeSizeBytes: UInt64
  var tierNames: [String]
  var devices: [Device]

  init(_ s: Superblock) {
    serial = s.serial
    incarnation = s.incarnation
    bootId = "\(s.bootID)"
    ringId = Hex.text(s.ringID, digits: 16)
    clean = s.isClean
    epoch = s.epoch.rawValue
    boundary = s.boundary.rawValue
    boundaryCrc = Hex.text(UInt64(s.boundaryCRC), digits: 8)
    watermark = s.watermark.rawValue
    nextSegmentSerial = s.nextSegmentSerial
    chunkCount = s.chunkCount
    logOffset = s.log.offset
    logSegmentBytes = s.log.segmentSize
    logSegments = s.log.segmentCount
    logBlockBytes = s.log.logBlock
    volumeName = s.volumeName
    volumeSizeBytes = s.volumeSize
    tierNames = s.tierNames
    devices = s.devices.map {
      Device(
        identity: "\($0.identity)", tier: $0.tier.index, state: DeviceStateText.text($0.state),
        sizeBytes: $0.size)
    }
  }

  var lines: [String] {
    [
      "  volume       \(volumeName), \(SizeText.rounded(volumeSizeBytes))",
      "  serial       \(serial), incarnation \(incarnation), epoch \(epoch)",
      "  last boot    \(bootId), ring \(ringId), \(clean ? "shut down in order" : "in use")",
      "  log          \(logSegments) segments of \(SizeText.rounded(UInt64(logSegmentBytes))) "
        + "from byte \(logOffset), records on \(logBlockBytes) bytes",
      "  boundary     position \(boundary), previous header \(boundaryCrc)",
      "  watermark    position \(watermark), next segment's serial \(nextSegmentSerial)",
      "  pages        in \(chunkCount) slots",
    ]
      + devices.enumerated().map { index, device in
        "  device \(index)     \(device.identity), tier \(device.tier) "
          + "(\(device.tier < tierNames.count ? tierNames[device.tier] : "?")), "
          + "\(SizeText.rounded(device.sizeBytes)), \(device.state)"
      }
  }
}

/// The words for a device's state.
enum DeviceStateText {
  static func text(_ state: DeviceState) -> String {
    switch state {
    case .inUse: "in-use"
    case .readOnly: "read-only"
    case .evacuating: "evacuating"
    case .empty: "empty"
    case .failed: "failed"
    case .missing: "missing"
    }
  }
}

enum Hex {
  static func text(_ value: UInt64, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }
}
