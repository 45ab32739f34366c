import Base
import DiskFormat

/// A frame of the cache, by number.
typealias FrameIndex = Int32

/// The cached pages of all trees, in a fixed number of 4 KiB frames.
///
///     free ──take──► loading ──loaded──► clean ◄──written── dirty
///                       │                  └───change─────────►
///                       └──► damaged, failed (kept as answers until evicted)
///
/// - P1: a page is in at most one frame.
/// - P2: a pinned, loading or dirty frame is never evicted.
/// - P3: who waits for a frame is in exactly one list, and is woken exactly once.
struct PageCache: ~Copyable {
  enum State: UInt8 { case free, loading, clean, dirty, damaged, failed }

  struct Frame {
    var key: UInt64 = 0
    var state = State.free
    /// Seen since the clock's hand came by.
    var isRecent = false
    var pins: UInt32 = 0
    var hashNext: FrameIndex = -1
    /// First of those who wait for it to load.
    var waiters: Int32 = -1
    /// Its write has been ordered and has not ended.
    var isBeingWritten = false
    /// Directory pages with twins flipped since the last checkpoint stay.
    var isHeld = false
    /// Written since the last checkpoint, or read back after that: a roll-back forgets it.
    var isOfBatch = false
    /// Its parent was rolled back while it was being read: it is dropped.
    var isStale = false
    /// While loading: the check it must have, where it is read from, how often it was.
    var check: UInt32 = 0
    var place = SlotAddress.none
    var twin: UInt8 = 0
    var attempts: UInt8 = 0
    var failedAt = Instant(nanoseconds: 0)
  }

  let frameCount: Int
  private let data: UnsafeMutableRawPointer
  private let frames: UnsafeMutablePointer<Frame>
  private let buckets: UnsafeMutablePointer<FrameIndex>
  private let bucketMask: Int
  /// For directory pages: 97 bytes, one bit a child page flipped since the last checkpoint.
  private let flips: UnsafeMutablePointer<UInt8>
  private var hand = 0
  private(set) var dirtyCount = 0
  private(set) var heldCount = 0
  private(set) var loadingCount = 0

  init(frameCount: Int, in arena: inout Arena) {
    self.frameCount = frameCount
    data = arena.take(frameCount * Layout.metadataBlock)
    frames = arena.takeArray(of: Frame.self, count: frameCount)
    for i in 0..<frameCount { frames[i] = Frame() }
    var n = 16
    while n < frameCount { n *= 2 }
    buckets = arena.takeArray(of: FrameIndex.self, count: n)
    for i in 0..<n { buckets[i] = -1 }
    bucketMask = n - 1
    flips = arena.takeArray(of: UInt8.self, count: frameCount * 97)
  }

  static func bytes(frameCount: Int) -> Int {
    var n = 16
    while n < frameCount { n *= 2 }
    return Arena.cost(frameCount * Layout.metadataBlock)
      + Arena.cost(frameCount * MemoryLayout<Frame>.stride) + Arena.cost(n * 4)
      + Arena.cost(frameCount * 97)
  }

  /// tree 2 bits, level 2, device 8, index 48: never zero.
  static func key(_ a: PageAddress) -> UInt64 {
    UInt64(a.tree.rawValue) << 60 | UInt64(a.level) << 56 | UInt64(a.device) << 48 | a.index
  }

  static func address(_ key: UInt64) -> PageAddress {
    PageAddress(
      TreeKind(rawValue: UInt8(key >> 60)) ?? .extents, level: Int(key >> 56 & 15),
      device: UInt8(key >> 48 & 255), index: key & 0xffff_ffff_ffff)
  }

  subscript(_ f: FrameIndex) -> Frame {
    get { frames[Int(f)] }
    nonmutating _modify { yield &frames[Int(f)] }
  }

  /// The page's 4 KiB (SAFETY: the page may be evicted once nobody pins it and `take` is called).
  func page(_ f: FrameIndex) -> UnsafeMutableRawPointer { data + Int(f) * Layout.metadataBlock }

  private func bucket(_ key: UInt64) -> Int {
    Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) >> 32) & bucketMask
  }

  func find(_ key: UInt64) -> FrameIndex? {
    var f = buckets[bucket(key)]
    while f >= 0 {
      if frames[Int(f)].key == key { return f }
      f = frames[Int(f)].hashNext
    }
    return nil
  }

  /// A frame for a page that is not cached, in state loading; nil when none can be evicted.
  mutating func take(_ key: UInt64) -> FrameIndex? {
    var looked = 0
    while looked < 2 * frameCount {
      let i = hand
      hand = hand + 1 == frameCount ? 0 : hand + 1
      looked += 1
      let f = frames[i]
      switch f.state {
      case .loading, .dirty: continue
      case .clean, .damaged, .failed:
        if f.pins > 0 || f.isHeld { continue }
        if f.isRecent {
          frames[i].isRecent = false
          continue
        }
        unlink(FrameIndex(i))
      case .free: break
      }
      let b = bucket(key)
      frames[i] = Frame(key: key, state: .loading, isRecent: true, hashNext: buckets[b])
      buckets[b] = FrameIndex(i)
      loadingCount += 1
      return FrameIndex(i)
    }
    return nil
  }

  private mutating func unlink(_ f: FrameIndex) {
    let b = bucket(frames[Int(f)].key)
    if buckets[b] == f {
      buckets[b] = frames[Int(f)].hashNext
    } else {
      var g = buckets[b]
      while frames[Int(g)].hashNext != f { g = frames[Int(g)].hashNext }
      frames[Int(g)].hashNext = frames[Int(f)].hashNext
    }
    frames[Int(f)] = Frame()
  }

  mutating func setState(_ f: FrameIndex, _ state: State) {
    let old = frames[Int(f)].state
    if old == .dirty { dirtyCount -= 1 }
    if old == .loading { loadingCount -= 1 }
    if state == .loading { loadingCount += 1 }
    if state == .dirty { dirtyCount += 1 }
    frames[Int(f)].state = state
  }

  // MARK: Twins flipped since the last checkpoint

  func isFlipped(_ parent: FrameIndex, child: Int) -> Bool {
    flips[Int(parent) * 97 + (child >> 3)] & (1 << UInt8(child & 7)) != 0
  }

  mutating func setFlipped(_ parent: FrameIndex, child: Int) {
    flips[Int(parent) * 97 + (child >> 3)] |= 1 << UInt8(child & 7)
    if !frames[Int(parent)].isHeld {
      frames[Int(parent)].isHeld = true
      heldCount += 1
    }
  }

  /// A checkpoint is durable: what it wrote counts, nothing is flipped any more.
  mutating func forgetFlips() {
    for i in 0..<frameCount {
      frames[i].isOfBatch = false
      guard frames[i].isHeld else { continue }
      frames[i].isHeld = false
      for j in 0..<97 { flips[i * 97 + j] = 0 }
    }
    heldCount = 0
  }

  /// A batch is rolled back: forgets every page that it changed or wrote. Pins are the batch's own.
  mutating func forgetChanges() {
    for i in 0..<frameCount {
      let f = frames[i]
      if f.state == .loading { frames[i].isStale = true }
      guard f.state != .free, f.state != .loading,
        f.state == .dirty || f.isOfBatch || f.isHeld
      else { continue }
      setState(FrameIndex(i), .clean)
      frames[i].pins = 0
      frames[i].isHeld = false
      unlink(FrameIndex(i))
      for j in 0..<97 { flips[i * 97 + j] = 0 }
    }
    heldCount = 0
  }

  /// Forgets a page that was being read while its parent was rolled back.
  mutating func drop(_ f: FrameIndex) {
    setState(f, .clean)
    unlink(f)
  }

  /// The next dirty frame of a level from `f` on.
  func nextDirty(from f: Int, level: Int) -> FrameIndex? {
    var i = f
    while i < frameCount {
      if frames[i].state == .dirty, Int(frames[i].key >> 56 & 15) == level {
        return FrameIndex(i)
      }
      i += 1
    }
    return nil
  }
}
