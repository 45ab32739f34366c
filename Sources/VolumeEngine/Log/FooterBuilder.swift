import Base
import DiskFormat

/// Gathers the entries of the segment that is being filled, for its footer. A footer that does not
/// fit, or comes while the one before is still being written, is left out.
///
/// - FB1: a footer tells all records of its segment, or it is not written.
struct FooterBuilder: ~Copyable {
  private let buffers: UnsafeMutableRawPointer
  private let area: Int
  private var current = 0
  private var used = 0
  /// One past the last record gathered; nil when the segment cannot have a footer any more.
  private var end: LogPosition?
  private var start = LogPosition(0)
  private var previous: UInt32 = 0
  private var check: UInt32 = 0
  private var watermark = LogPosition(0)
  /// The index of the segment whose footer is complete in the other buffer.
  private(set) var ready: Int?
  var isInFlight = false

  init(area: Int, in arena: inout Arena) {
    self.area = area
    buffers = arena.take(2 * area)
  }

  static func bytes(area: Int) -> Int { Arena.cost(2 * area) }

  private var buffer: UnsafeMutableRawPointer { buffers + current * area }
  /// The memory of the complete one.
  var readyBuffer: UnsafeMutableRawPointer { buffers + (1 - current) * area }

  /// A segment begins at `position`, after the header whose check is `previous`.
  mutating func begin(at position: LogPosition, previous: UInt32) {
    start = position
    end = position
    self.previous = previous
    used = SegmentFooter.header
  }

  /// A record was closed: its header block, and where its entries end there.
  mutating func add(_ record: UnsafeRawPointer, entriesEnd: Int) {
    guard let at = end else { return }
    guard RecordHeader.position(record) == at,
      let next = SegmentFooter.add(
        record, entryBytes: entriesEnd - RecordHeader.entries, to: buffer, at: used, area: area)
    else {
      end = nil
      return
    }
    used = next
    end = at + RecordHeader.length(record)
    check = RecordHeader.check(record)
    watermark = RecordHeader.watermark(record)
  }

  /// The segment is full.
  mutating func finish(_ segment: Segment, incarnation: UInt64, seed: PoolSeed) {
    guard let last = end, last == segment.end, start == segment.start, ready == nil, !isInFlight
    else { return }
    SegmentFooter(
      index: UInt32(segment.index), serial: segment.serial, start: start, end: last,
      incarnation: incarnation, watermark: watermark, previous: previous, check: check
    ).encode(into: buffer, used: used, seed: seed)
    ready = segment.index
    current = 1 - current
  }

  /// The complete one is on its way.
  mutating func taken() {
    ready = nil
    isInFlight = true
  }

  /// Positions get other segments: what was gathered is of no use.
  mutating func forget() {
    end = nil
    ready = nil
  }
}
