import Base

/// Recognises sequential streams among interleaved accesses: the last sixteen places where one
/// could go on, each with how many extents it has run through.
///
/// A run goes on into the next extent only if at least half of the one before was asked for, so
/// that small random accesses to neighbours are not taken for one. A stream is known once it has
/// run through `threshold` bytes, or at once when a single request is that long: what a scan
/// touches first counts as one visit, which promotes nothing.
struct StreamDetector {
  private struct Run {
    var last = UInt64.max
    var bytes = 0
    var extents = 0
  }
  private var runs = InlineArray<16, Run>(repeating: Run())
  private var next = 0
  private let threshold: Int

  init(threshold: Int) { self.threshold = threshold }

  /// Notes an access of `bytes` to one extent; true when it belongs to a stream.
  mutating func note(_ extent: ExtentIndex, bytes: Int, requestBytes: Int) -> Bool {
    let e = extent.rawValue
    var found = -1
    for i in 0..<16 where runs[i].last == e || runs[i].last &+ 1 == e {
      found = i
      break
    }
    if found < 0 {
      runs[next] = Run(last: e, bytes: bytes, extents: 1)
      next = (next + 1) & 15
      return requestBytes >= threshold
    }
    var run = runs[found]
    if run.last == e {
      run.bytes = min(run.bytes + bytes, Size.extent)
    } else {
      // A stream may begin anywhere in its first extent.
      let goesOn = run.extents == 1 || run.bytes >= Size.extent / 2
      run = Run(last: e, bytes: bytes, extents: goesOn ? run.extents + 1 : 1)
    }
    runs[found] = run
    return requestBytes >= threshold || run.extents >= threshold / Size.extent
  }
}
