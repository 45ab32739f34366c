/// A good mixing of 64 bits: every bit of the input moves about half of the output's. It is one
/// to one. (The finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014.)
@inlinable @inline(__always)
package func mix64(_ value: UInt64) -> UInt64 {
  var x = value &+ 0x9e37_79b9_7f4a_7c15
  x = (x ^ x >> 30) &* 0xbf58_476d_1ce4_e5b9
  x = (x ^ x >> 27) &* 0x94d0_49bb_1331_11eb
  return x ^ x >> 31
}

/// A small seeded generator, the same on every machine: for simulations, load and tests, never
/// for secrets. (xoshiro256**: Blackman and Vigna, 2018.)
@usableFromInline package struct Random: RandomNumberGenerator, Sendable {
  @usableFromInline var a: UInt64
  @usableFromInline var b: UInt64
  @usableFromInline var c: UInt64
  @usableFromInline var d: UInt64

  /// A generator whose whole sequence is given by `seed`; every seed is good, 0 too.
  @inlinable package init(seed: UInt64) {
    let step: UInt64 = 0x9e37_79b9_7f4a_7c15
    a = mix64(seed)
    b = mix64(seed &+ step)
    c = mix64(seed &+ step &* 2)
    d = mix64(seed &+ step &* 3)
  }

  /// A generator in a given state, not all zeros: to go on with a sequence, or to compare one.
  @inlinable package init(state a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) {
    invariant(a | b | c | d != 0, "R2: a state of zeros yields only zeros")
    self.a = a
    self.b = b
    self.c = c
    self.d = d
  }

  @inlinable package mutating func next() -> UInt64 {
    let product = b &* 5
    let result = (product << 7 | product >> 57) &* 9
    let shifted = b << 17
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = d << 45 | d >> 19
    return result
  }

  /// A number from 0 to `bound` - 1, each as likely; `bound` must be positive.
  @inlinable package mutating func next(below bound: Int) -> Int {
    invariant(bound > 0, "R1: a number is drawn from a range that is not empty")
    let n = UInt64(bound)
    var product = next().multipliedFullWidth(by: n)
    if product.low < n {
      let threshold = (0 &- n) % n
      while product.low < threshold { product = next().multipliedFullWidth(by: n) }
    }
    return Int(product.high)
  }

  /// True in `perMille` of 1000 draws.
  @inlinable package mutating func chance(_ perMille: Int) -> Bool {
    next(below: 1000) < perMille
  }
}
