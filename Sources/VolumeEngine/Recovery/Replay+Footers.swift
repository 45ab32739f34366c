import Base
import DeviceIO
import DiskFormat

/// What the footers of full segments save a recovery from reading.
extension Replay {
  /// The whole footers of the chosen segments that tell just the positions they count for, by
  /// their first position. One that cannot be read is none.
  func readFooters() -> [LogPosition: SegmentFooter] {
    var found: [LogPosition: SegmentFooter] = [:]
    let group = 16
    let area = geometry.footerArea
    let buffer = AlignedBuffer(group * area)
    var first = 0
    while first < chosen.count {
      let count = min(group, chosen.count - first)
      let results = io.attempt(
        (0..<count).map { footerRead(chosen[first + $0].index, into: buffer.base + $0 * area) })
      for i in 0..<count where results[i] >= 0 {
        let segment = chosen[first + i]
        guard let footer = decode(buffer.base + i * area, segment.index),
          footer.serial == segment.serial, footer.start == segment.start,
          footer.start == from[first + i], footer.end == segment.end
        else { continue }
        found[footer.start] = footer
      }
      first += count
    }
    return found
  }

  /// The footer that tells the records from `position` on, when it is believed (SAFETY: in
  /// `buffer`, which has room for one).
  func footer(at position: LogPosition, _ buffer: AlignedBuffer) -> SegmentFooter? {
    guard let believed = footers[position], let i = from.firstIndex(of: position),
      io.attempt([footerRead(chosen[i].index, into: buffer.base)])[0] >= 0,
      decode(buffer.base, chosen[i].index) == believed
    else { return nil }
    return believed
  }

  private func footerRead(_ index: Int, into memory: UnsafeMutableRawPointer) -> DeviceOperation {
    let end = geometry.segmentOffset(index) + UInt64(geometry.segmentSize)
    return DeviceOperation(
      .read, device: DeviceIndex(0), offset: end - UInt64(geometry.footerArea),
      length: geometry.footerArea, memory: memory, token: 0)
  }

  private func decode(_ p: UnsafeRawPointer, _ index: Int) -> SegmentFooter? {
    try? SegmentFooter.decode(p, area: geometry.footerArea, index: UInt32(index), seed: seed)
  }
}
