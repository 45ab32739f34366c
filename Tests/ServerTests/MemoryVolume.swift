import Base
import CAllocationCount
import DeviceIO
import Glibc
import Server
import Synchronization
import VolumeEngine

/// How a test steers its volume, and what it sees of it, from another thread.
final class VolumeControl: Sendable {
  private let words = (0..<10).map { _ in Word() }
  private final class Word: Sendable {
    let value = Atomic<UInt64>(0)
  }

  private subscript(_ i: Int) -> UInt64 {
    get { words[i].value.load(ordering: .relaxed) }
    set { words[i].value.store(newValue, ordering: .relaxed) }
  }

  /// Replies stay inside.
  var holdsReplies: Bool {
    get { self[0] == 1 }
    set { self[0] = newValue ? 1 : 0 }
  }
  /// Nothing is accepted.
  var refusesRequests: Bool {
    get { self[1] == 1 }
    set { self[1] = newValue ? 1 : 0 }
  }
  /// Replies come in another order than the requests.
  var shuffles: Bool {
    get { self[2] == 1 }
    set { self[2] = newValue ? 1 : 0 }
  }
  /// Requests that touch this offset fail; none when 0.
  var failingOffset: UInt64 {
    get { self[3] }
    set { self[3] = newValue }
  }
  /// Requests taken, of these writes, and replies given: counted by the volume.
  var submitted: UInt64 {
    get { self[4] }
    set { self[4] = newValue }
  }
  var writes: UInt64 {
    get { self[5] }
    set { self[5] = newValue }
  }
  var replied: UInt64 {
    get { self[6] }
    set { self[6] = newValue }
  }
  /// Allocations of the loop's thread, when it was last asked to step.
  var allocations: UInt64 {
    get { self[7] }
    set { self[7] = newValue }
  }
  /// A status of tiers fails.
  var failsTiers: Bool {
    get { self[9] == 1 }
    set { self[9] = newValue ? 1 : 0 }
  }
  /// The loop's thread stands still.
  var standsStill: Bool {
    get { self[8] == 1 }
    set { self[8] = newValue ? 1 : 0 }
  }
}

/// A volume in memory: a block is a hole until it is written.
struct MemoryVolume: ServedVolume, ~Copyable {
  let size: UInt64
  private let control: VolumeControl
  private let bytes: UnsafeMutableRawPointer
  private let mapped: UnsafeMutablePointer<Bool>
  private let held: UnsafeMutablePointer<VolumeReply>
  private var heldCount = 0
  private var now = Instant(nanoseconds: 0)
  private var random: UInt64 = 88_172_645_463_325_252
  private var isStopping = false
  private static var mostHeld: Int { 4096 }

  init(size: Int, _ control: VolumeControl) {
    self.size = UInt64(size)
    self.control = control
    bytes = .allocate(byteCount: size, alignment: 4096)
    bytes.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    mapped = .allocate(capacity: size / 4096)
    mapped.initialize(repeating: false, count: size / 4096)
    held = .allocate(capacity: Self.mostHeld)
  }

  deinit {
    bytes.deallocate()
    mapped.deallocate()
    held.deallocate()
  }

  var canAccept: Bool {
    !isStopping && heldCount < Self.mostHeld
      && !control.refusesRequests
  }

  mutating func grow(to bytes: UInt64) {}

  mutating func submit(_ request: VolumeRequest) {
    control.submitted += 1
    var reply = VolumeReply(
      cookie: request.cookie, result: .done, descriptorCount: 0, errorOffset: 0)
    let failing = control.failingOffset
    if failing > 0, request.kind != .flush, failing >= request.offset,
      failing < request.offset + request.length
    {
      reply.result = .ioError
      reply.errorOffset = failing
    } else if request.kind == .blockStatus, request.view == .tier, control.failsTiers {
      reply.result = .ioError
      reply.errorOffset = request.offset
    } else {
      perform(request, &reply)
    }
    held[heldCount] = reply
    heldCount += 1
  }

  private mutating func perform(_ request: VolumeRequest, _ reply: inout VolumeReply) {
    let offset = Int(request.offset)
    let length = Int(request.length)
    switch request.kind {
    case .flush, .cache: break
    case .read: read(request, offset, length)
    case .write:
      control.writes += 1
      (bytes + offset).copyMemory(from: request.memory! + offset % 4096, byteCount: length)
      for block in offset / 4096...(offset + length - 1) / 4096 { mapped[block] = true }
    case .trim, .writeZeroes:
      if request.flags.contains(.onlyIfFast), (offset | length) & 4095 != 0 {
        reply.result = .notSupported
        return
      }
      (bytes + offset).initializeMemory(as: UInt8.self, repeating: 0, count: length)
      guard !request.flags.contains(.keepAllocated) else { return }
      let first = (offset + 4095) / 4096
      let end = (offset + length) / 4096
      for block in first..<max(first, end) { mapped[block] = false }
    case .blockStatus: reply.descriptorCount = status(request, offset, length)
    }
  }

  private func read(_ request: VolumeRequest, _ offset: Int, _ length: Int) {
    (request.memory! + offset % 4096).copyMemory(from: bytes + offset, byteCount: length)
    guard let holes = request.holes else { return }
    for i in 0..<5 { holes[i] = 0 }
    let first = offset / 4096
    for block in first...(offset + length - 1) / 4096 where !mapped[block] {
      holes[(block - first) >> 6] |= 1 << UInt64((block - first) & 63)
    }
  }

  private func status(_ request: VolumeRequest, _ offset: Int, _ length: Int) -> UInt32 {
    var count = 0
    var at = offset
    while at < offset + length && count < request.descriptorCapacity {
      let next = min((at / 4096 + 1) * 4096, offset + length)
      let target = (request.memory! + 16 * count).assumingMemoryBound(to: StatusDescriptor.self)
      target.pointee = StatusDescriptor(
        length: UInt64(next - at), flags: mapped[at / 4096] ? 0 : 3)
      count += 1
      at = next
    }
    return UInt32(count)
  }

  mutating func complete(_ completion: DeviceCompletion) {}

  mutating func step(now: Instant) {
    self.now = now
    control.allocations = allocation_count()
    while control.standsStill { usleep(1000) }
  }

  mutating func nextOperation() -> DeviceOperation? { nil }

  mutating func nextReply() -> VolumeReply? {
    guard heldCount > 0, !control.holdsReplies else { return nil }
    var index = 0
    if control.shuffles {
      random ^= random << 13
      random ^= random >> 7
      random ^= random << 17
      index = Int(random % UInt64(heldCount))
    }
    let reply = held[index]
    heldCount -= 1
    if index == 0 {
      for i in 0..<heldCount { held[i] = held[i + 1] }
    } else {
      held[index] = held[heldCount]
    }
    control.replied += 1
    return reply
  }

  /// Looks at its control every 2 ms.
  var nextDeadline: Instant? { now + Milliseconds(2) }
  mutating func beginShutdown() { isStopping = true }
  var isShutDown: Bool { isStopping }
  func statistics() -> VolumeStatistics { VolumeStatistics() }
  func deviceStatistics(_ device: DeviceIndex) -> DeviceStatistics { DeviceStatistics() }
  mutating func takeNotice() -> VolumeNotice? { nil }
}
