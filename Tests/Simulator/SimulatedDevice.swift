import Base
import DeviceIO
import Glibc

/// One simulated disk: what reads see, what survives a power loss, and every write between.
///
///              write completes                 flush covers it
///   in flight ────────────────► volatile write ────────────────► durable
///       │                             │
///       └────── power loss: kept, dropped or torn, each sector by itself
///
/// - S2: a flush makes durable the writes that had completed when it was submitted; nothing more.
/// - S3: a sector never goes back behind a value that is durable: `durableOrder` remembers the
///   order number of the write whose value the durable image holds.
/// - S4: a volatile write that a failed flush forgot (`isForgotten`) is read, but no later flush
///   makes it durable: that is what Linux' page cache and real disks do.
final class SimulatedDevice {
  let geometry: DeviceGeometry
  /// What a sector tears into: the logical block.
  let sector: Int

  // SAFETY: two private anonymous mappings of `geometry.size` bytes, made in `init`, unmapped in
  // `deinit`; every access is bounds-checked by `SimulatedDevices.validate`.
  let current: UnsafeMutableRawPointer
  private let durable: UnsafeMutableRawPointer
  private let durableOrder: UnsafeMutablePointer<UInt32>

  private struct VolatileWrite {
    var offset: Int
    var length: Int
    var order: UInt32
    var isForgotten: Bool
    var data: UnsafeMutableRawPointer
  }
  private var volatileWrites: [VolatileWrite] = []
  /// The order number of the newest completed write.
  private(set) var order: UInt32 = 0

  init(_ geometry: DeviceGeometry) {
    self.geometry = geometry
    sector = geometry.logicalBlock
    let size = Int(geometry.size)
    current = SimulatedDevice.map(size)
    durable = SimulatedDevice.map(size)
    durableOrder = .allocate(capacity: size / sector)
    durableOrder.initialize(repeating: 0, count: size / sector)
  }

  deinit {
    for write in volatileWrites { write.data.deallocate() }
    durableOrder.deallocate()
    munmap(current, Int(geometry.size))
    munmap(durable, Int(geometry.size))
  }

  private static func map(_ size: Int) -> UnsafeMutableRawPointer {
    let memory = mmap(
      nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let memory, memory != MAP_FAILED else { fatalError("no memory for a simulated device") }
    return memory
  }

  // MARK: Completions

  /// A write of `source` takes effect and is volatile.
  func write(_ source: UnsafeRawPointer, offset: Int, length: Int) {
    order += 1
    memcpy(current + offset, source, length)
    let data = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 64)
    memcpy(data, source, length)
    volatileWrites.append(
      VolatileWrite(offset: offset, length: length, order: order, isForgotten: false, data: data))
  }

  /// A write of `source` takes effect and is durable.
  func writeThrough(_ source: UnsafeRawPointer, offset: Int, length: Int) {
    order += 1
    memcpy(current + offset, source, length)
    apply(source, offset: offset, length: length, order: order)
  }

  /// A flush that was submitted when `order` was `covered` ends well.
  func flush(covered: UInt32) {
    var kept: [VolatileWrite] = []
    for write in volatileWrites {
      if write.order <= covered && !write.isForgotten {
        apply(write.data, offset: write.offset, length: write.length, order: write.order)
        write.data.deallocate()
      } else {
        kept.append(write)
      }
    }
    volatileWrites = kept
  }

  /// A flush fails: of what it covered, each write becomes durable, stays as it was, or is
  /// forgotten for ever.
  func failFlush(covered: UInt32, random: inout Random) {
    let mode = random.below(4)
    var kept: [VolatileWrite] = []
    for var write in volatileWrites {
      let fate = mode == 3 ? random.below(3) : mode
      if write.order <= covered && !write.isForgotten && fate == 0 {
        apply(write.data, offset: write.offset, length: write.length, order: write.order)
        write.data.deallocate()
        continue
      }
      if write.order <= covered && fate == 1 { write.isForgotten = true }
      kept.append(write)
    }
    volatileWrites = kept
  }

  /// A flush fails, and all that it covered is forgotten for ever.
  func forget(covered: UInt32) {
    for i in volatileWrites.indices where volatileWrites[i].order <= covered {
      volatileWrites[i].isForgotten = true
    }
  }

  private func apply(_ source: UnsafeRawPointer, offset: Int, length: Int, order: UInt32) {
    var at = 0
    while at < length {
      applySector(source + at, (offset + at) / sector, order)
      at += sector
    }
  }

  private func applySector(_ source: UnsafeRawPointer, _ number: Int, _ order: UInt32) {
    if durableOrder[number] > order { return }
    durableOrder[number] = order
    memcpy(durable + number * sector, source, sector)
  }

  // MARK: Faults

  /// Turns bits of a sector over, on the medium and for readers.
  func rot(sector number: Int, random: inout Random) {
    let bits = random.within(1...8)
    for _ in 0..<bits {
      let at = number * sector + random.below(sector)
      let mask = UInt8(1 << random.below(8))
      current.put8(at, UnsafeRawPointer(current).u8(at) ^ mask)
      durable.put8(at, UnsafeRawPointer(durable).u8(at) ^ mask)
    }
  }

  // MARK: Power loss

  /// How a power loss chooses among the sectors that were not durable.
  enum Loss: Int, CaseIterable {
    case all, none, random, torn, onlyLast, allButOne, prefix
  }

  /// The power goes: `current` becomes what the medium kept.
  func losePower(_ loss: Loss, random: inout Random) {
    let last = volatileWrites.count - 1
    let chosen = volatileWrites.isEmpty ? 0 : random.below(volatileWrites.count)
    for (i, write) in volatileWrites.enumerated() {
      switch loss {
      case .all: break
      case .none: keep(write, random: &random, perMille: 1000)
      case .random: if random.chance(500) { keep(write, random: &random, perMille: 1000) }
      case .torn: keep(write, random: &random, perMille: 500)
      case .onlyLast: if i == last { keep(write, random: &random, perMille: 1000) }
      case .allButOne: keep(write, random: &random, perMille: i == chosen ? 0 : 1000)
      case .prefix:
        if i <= chosen { keep(write, random: &random, perMille: i == chosen ? 500 : 1000) }
      }
    }
    forgetVolatile()
  }

  /// The power goes, and of each write (offset, length) so many bytes from its front are kept.
  func losePower(keeping length: (Int, Int) -> Int) {
    for write in volatileWrites {
      var at = 0
      while at < length(write.offset, write.length) {
        applySector(write.data + at, (write.offset + at) / sector, write.order)
        at += sector
      }
    }
    forgetVolatile()
  }

  private func forgetVolatile() {
    for write in volatileWrites {
      memcpy(current + write.offset, durable + write.offset, write.length)
      write.data.deallocate()
    }
    volatileWrites.removeAll()
  }

  private func keep(_ write: VolatileWrite, random: inout Random, perMille: Int) {
    if perMille == 0 { return }
    var at = 0
    while at < write.length {
      if perMille == 1000 || random.chance(perMille) {
        applySector(write.data + at, (write.offset + at) / sector, write.order)
      }
      at += sector
    }
  }
}
