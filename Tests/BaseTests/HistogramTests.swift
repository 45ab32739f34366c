import Base
import Testing

@Suite struct HistogramTests {
  /// The exact percentile: the smallest value that `perMille` of 1000 do not exceed.
  private func exact(_ sorted: [UInt64], _ perMille: Int) -> UInt64 {
    sorted[max(0, (sorted.count * perMille + 999) / 1000 - 1)]
  }

  @Test func percentilesAreAtMostASixteenthTooHigh() {
    var random = Random(seed: 3)
    for spread in [4, 20, 39] as [UInt64] {
      var histogram = Histogram()
      var values: [UInt64] = []
      for _ in 0..<3000 {
        let value = random.next() >> (64 - spread + UInt64(random.next(below: 4)))
        values.append(value)
        histogram.record(nanoseconds: value)
      }
      values.sort()
      for perMille in [0, 1, 10, 250, 500, 900, 990, 999, 1000] {
        let want = exact(values, perMille)
        let got = histogram.percentile(perMille: perMille)
        #expect(got >= want && got <= want + want / 16, "\(perMille) of 1000, spread \(spread)")
      }
      #expect(histogram.maximum == values.last)
      #expect(histogram.sum == values.reduce(0, +))
      #expect(histogram.mean == values.reduce(0, +) / 3000)
    }
  }

  @Test func everyBucketBorder() {
    for exponent in 0..<40 as Range<UInt64> {
      for value in [1 << exponent, 1 << exponent + 1, 2 << exponent - 1] as [UInt64] {
        var histogram = Histogram()
        histogram.record(nanoseconds: value)
        histogram.record(nanoseconds: 1 << 41)
        let got = histogram.percentile(perMille: 500)
        // The last bucket also holds what is longer than the range.
        let last = value >= 31 << 35
        #expect(last || (got >= value && got <= value + value / 16), "\(value)")
      }
    }
  }

  @Test func extremes() {
    var histogram = Histogram()
    #expect(histogram.percentile(perMille: 500) == 0)
    #expect(histogram.mean == 0)
    histogram.record(nanoseconds: .max)
    #expect(histogram.percentile(perMille: 500) == .max)
    histogram.record(nanoseconds: 0)
    #expect(histogram.percentile(perMille: 500) == 0)
    #expect(histogram.percentile(perMille: 501) == .max)
  }

  @Test func mergingIsRecordingBoth() {
    var both = Histogram()
    var parts = [Histogram(), Histogram()]
    var random = Random(seed: 5)
    for _ in 0..<1000 {
      let value = random.next() >> UInt64(24 + random.next(below: 30))
      both.record(nanoseconds: value)
      parts[random.next(below: 2)].record(nanoseconds: value)
    }
    var merged = parts[0]
    merged.merge(parts[1])
    #expect(merged.count == 1000 && merged.sum == both.sum && merged.maximum == both.maximum)
    for perMille in stride(from: 0, through: 1000, by: 50) {
      #expect(merged.percentile(perMille: perMille) == both.percentile(perMille: perMille))
    }
  }
}
