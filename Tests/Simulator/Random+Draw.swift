import Base

/// How the simulator draws. The sequence is part of a seed's meaning: changing it renames every
/// recorded failure.
extension Random {
  /// 0 to `count` − 1; `count` is at least 1.
  mutating func below(_ count: Int) -> Int { next(below: count) }

  /// One of the numbers of a range.
  mutating func within(_ range: ClosedRange<Int>) -> Int {
    range.lowerBound + next(below: range.count)
  }

  /// One of `choices`, each as likely.
  mutating func pick<T>(_ choices: [T]) -> T { choices[next(below: choices.count)] }

  /// The number of a weight, each as likely as it weighs; the sum is at least 1.
  mutating func weighted(_ weights: [Int]) -> Int {
    var rest = next(below: weights.reduce(0, +))
    for (i, weight) in weights.enumerated() {
      if rest < weight { return i }
      rest -= weight
    }
    return weights.count - 1
  }

  /// A number from 1 to `most`, every order of magnitude as likely.
  mutating func magnitude(_ most: Int) -> Int {
    let bits = within(1...(Int.bitWidth - most.leadingZeroBitCount))
    return min(most, 1 + Int(next() >> UInt64(64 - bits)))
  }

  /// A generator of its own, for a part whose use of chance must not disturb the others.
  mutating func fork() -> Random { Random(seed: next()) }
}
