/// Self-identifying sectors: 512 bytes that tell which sector and version they are, filled so that
/// any mixture of two of them is seen.
///
/// | words | content |
/// |---|---|
/// | 0 | the run's seed |
/// | 1 | sector, counted in the region |
/// | 2 | version, 1 and up |
/// | 3–63 | a sequence that follows from the first three |
enum Pattern {
  static let sectorBytes = 512
  private static let words = 64

  static func fill(
    _ memory: UnsafeMutableRawPointer, seed: UInt64, sector: Int, version: UInt32
  ) {
    let out = memory.bindMemory(to: UInt64.self, capacity: words)
    out[0] = seed
    out[1] = UInt64(sector)
    out[2] = UInt64(version)
    var state = mix(seed, sector, version)
    for i in 3..<words {
      out[i] = state
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    }
  }

  /// What a sector turned out to hold.
  enum Content: Equatable {
    case zeros
    case version(UInt32)
    /// Neither zeros nor a whole sector of this region; the text says what it looks like.
    case foreign(String)
  }

  static func read(_ memory: UnsafeRawPointer, seed: UInt64, sector: Int) -> Content {
    let word = memory.assumingMemoryBound(to: UInt64.self)
    if word[0] == 0 {
      for i in 1..<words where word[i] != 0 { return .foreign("zeros, then something else") }
      return .zeros
    }
    guard word[0] == seed else { return .foreign("not written by this run") }
    guard word[1] == UInt64(sector) else {
      return .foreign("sector \(word[1]), version \(word[2])")
    }
    guard let version = UInt32(exactly: word[2]) else { return .foreign("impossible version") }
    var state = mix(seed, sector, version)
    for i in 3..<words {
      if word[i] != state { return .foreign("version \(version), broken at byte \(i * 8)") }
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    }
    return .version(version)
  }

  private static func mix(_ seed: UInt64, _ sector: Int, _ version: UInt32) -> UInt64 {
    var x = seed ^ UInt64(sector) &* 0x9e37_79b9_7f4a_7c15 ^ UInt64(version) << 40
    x = (x ^ x >> 31) &* 0xbf58_476d_1ce4_e5b9
    return x ^ x >> 29
  }
}
