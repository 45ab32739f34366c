import Base
import DeviceIO
import DiskFormat

/// Reads the log by position, a window of 4 MiB at a time.
final class LogReader {
  private let io: SyncIO
  private let geometry: LogGeometry
  var segments: [Segment] = []
  private let window: AlignedBuffer
  private var windowStart = LogPosition(0)
  private var windowEnd = LogPosition(0)

  init(io: SyncIO, geometry: LogGeometry) {
    self.io = io
    self.geometry = geometry
    window = AlignedBuffer(min(4 << 20, geometry.segmentCapacity) + RecordHeader.maxLength)
  }

  /// `count` bytes at a position, nil when no segment holds them all (SAFETY: until the next call).
  func bytes(at position: LogPosition, _ count: Int) throws(OpenError) -> UnsafeRawPointer? {
    if position >= windowStart, position + count <= windowEnd {
      return UnsafeRawPointer(window.base + (position - windowStart))
    }
    guard let s = segments.first(where: { $0.start <= position && position < $0.end }),
      position + count <= s.end
    else { return nil }
    let n = min(window.count, s.end - position)
    let base = geometry.segmentOffset(s.index) + UInt64(geometry.logBlock + (position - s.start))
    var operations: [DeviceOperation] = []
    var done = 0
    while done < n {
      let piece = min(512 << 10, n - done)
      operations.append(
        DeviceOperation(
          .read, device: DeviceIndex(0), offset: base + UInt64(done), length: piece,
          memory: window.base + done, token: 0))
      done += piece
    }
    do {
      try io.perform(operations)
    } catch {
      throw OpenError(error)
    }
    windowStart = position
    windowEnd = position + n
    return UnsafeRawPointer(window.base)
  }
}
