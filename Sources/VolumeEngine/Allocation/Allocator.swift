import Base
import DeviceIO
import DiskFormat

/// Which slots are in use, device by device, and where new ones come from.
///
/// - A1: a slot that is mapped, reserved, in flight, pinned or not durably forgotten is not
///   handed out: all of these are *busy*.
/// - A2: the mapped bits are exactly what the checkpoint being built names.
/// - A3: free + busy = total, on every device.
struct Allocator: ~Copyable {
  let deviceCount: Int
  private let bitmaps: UnsafeMutablePointer<SlotBitmap>
  private let tiers: UnsafeMutablePointer<TierIndex>
  /// Device takes new slots.
  private let open: UnsafeMutablePointer<Bool>
  let tierCount: Int
  /// Slots that only the table may take: its directories must always find room, and, where they
  /// are few beside the pool, the chunks of all pages that the volume can have.
  private(set) var tableReserve: UInt64 = 0
  /// Slots to promise to an extent that may have no home: its own, and that of its page's chunk
  /// unless `tableReserve` holds it.
  private(set) var slotsPerExtent: UInt64 = 1
  /// Slots that are not the system's.
  private let total: UInt64
  /// Slots promised to what the log holds.
  var reserved: UInt64 = 0
  private let shortBelow: Int
  /// Writes are placed while so many slots are available.
  let placedLeast: Int
  private let systemSlots: UnsafeMutablePointer<UInt64>

  init(superblock: Superblock, in arena: inout Arena) {
    deviceCount = superblock.devices.count
    tierCount = superblock.tierNames.count
    bitmaps = arena.take(deviceCount * MemoryLayout<SlotBitmap>.stride)
      .bindMemory(to: SlotBitmap.self, capacity: deviceCount)
    tiers = arena.takeArray(of: TierIndex.self, count: deviceCount)
    open = arena.takeArray(of: Bool.self, count: deviceCount)
    systemSlots = arena.takeArray(of: UInt64.self, count: deviceCount)
    var total: UInt64 = 0
    for (i, device) in superblock.devices.enumerated() {
      // SAFETY: arena memory, initialised once; SlotBitmap frees nothing.
      (bitmaps + i).initialize(to: SlotBitmap(slotCount: device.slotCount, in: &arena))
      tiers[i] = device.tier
      open[i] = device.state == .inUse
      systemSlots[i] = Allocator.systemSlots(superblock, i)
      for s in 0..<systemSlots[i] { bitmaps[i].setBusy(s) }
      total += device.slotCount - systemSlots[i]
    }
    self.total = total
    placedLeast = max(64, Int(clamping: total / 32))
    shortBelow = max(16, Int(clamping: total / 2))
    grow(superblock)
  }

  /// Holds what the table of a volume of this size needs. What is held for promises made before is
  /// held on.
  mutating func grow(_ superblock: Superblock) {
    let directories = min(superblock.volumeSize / (15 << 30) + 4, max(4, total / 64))
    let chunks = superblock.volumeSize / Allocator.bytesPerChunk + 1
    if chunks <= total / 64 {
      tableReserve = directories + chunks
    } else {
      tableReserve =
        slotsPerExtent == 2 ? max(tableReserve, directories) : tableReserve + directories
      slotsPerExtent = 2
    }
  }

  /// Bytes of the volume that one chunk of pages describes.
  private static var bytesPerChunk: UInt64 {
    UInt64(Page.pagesPerChunk * Page.recordsPerPage * Size.extent)
  }

  /// Slots at a device's start that hold label, superblocks and log.
  static func systemSlots(_ superblock: Superblock, _ device: Int) -> UInt64 {
    var bytes = Layout.systemArea
    if device == 0 { bytes = superblock.log.offset + superblock.log.areaSize }
    let slot = UInt64(Size.extent)
    return min((bytes + slot - 1) / slot, superblock.devices[device].slotCount)
  }

  /// Whether a slot exists and is not the system's.
  static func isUsable(_ slot: SlotAddress, _ superblock: Superblock) -> Bool {
    guard !slot.isNone, slot.device.index < superblock.devices.count else { return false }
    let d = slot.device.index
    return slot.slot >= systemSlots(superblock, d) && slot.slot < superblock.devices[d].slotCount
  }

  static func bytes(_ superblock: Superblock) -> Int {
    superblock.devices.reduce(4 * 4096 * 4) { $0 + SlotBitmap.bytes(slotCount: $1.slotCount) }
  }

  func bitmap(_ device: DeviceIndex) -> UnsafeMutablePointer<SlotBitmap> {
    bitmaps + device.index
  }

  func tier(_ device: DeviceIndex) -> TierIndex { tiers[device.index] }

  /// Free slots on devices that take new ones.
  var free: UInt64 {
    var n: UInt64 = 0
    for i in 0..<deviceCount where open[i] { n += bitmaps[i].freeCount }
    return n
  }

  /// Slots that may still be promised; negative when more is promised than there is.
  var available: Int { Int(free) - Int(reserved) - Int(tableReserve) }

  /// No more than half is left: a closer look at each promise pays.
  var isShort: Bool { available < shortBelow }

  func freeSlots(_ tier: TierIndex) -> UInt64 {
    var n: UInt64 = 0
    for i in 0..<deviceCount where tiers[i] == tier && open[i] { n += bitmaps[i].freeCount }
    return n
  }

  /// A slot on `tier`, at or after `hint` when that is on a device of the tier; else on the
  /// device with most room.
  mutating func allocate(tier: TierIndex, near hint: SlotAddress) -> SlotAddress? {
    if !hint.isNone, tiers[hint.device.index] == tier, open[hint.device.index],
      hint.slot < bitmaps[hint.device.index].slotCount,
      let slot = bitmaps[hint.device.index].allocate(near: hint.slot)
    {
      return SlotAddress(device: hint.device, slot: slot)
    }
    var best = -1
    for i in 0..<deviceCount where tiers[i] == tier && open[i] && bitmaps[i].freeCount > 0 {
      if best < 0 || bitmaps[i].freeCount > bitmaps[best].freeCount { best = i }
    }
    guard best >= 0, let slot = bitmaps[best].allocate(near: nil) else { return nil }
    return SlotAddress(device: DeviceIndex(best), slot: slot)
  }

  /// A slot on the preferred tier, or the nearest slower one, or any.
  mutating func allocate(preferred: TierIndex, near hint: SlotAddress) -> SlotAddress? {
    var t = preferred.index
    while t < tierCount {
      if let slot = allocate(tier: TierIndex(t), near: hint) { return slot }
      t += 1
    }
    t = preferred.index - 1
    while t >= 0 {
      if let slot = allocate(tier: TierIndex(t), near: hint) { return slot }
      t -= 1
    }
    return nil
  }

  mutating func setMapped(_ s: SlotAddress) { bitmaps[s.device.index].setMapped(s.slot) }
  mutating func clearMapped(_ s: SlotAddress) { bitmaps[s.device.index].clearMapped(s.slot) }
  mutating func release(_ s: SlotAddress) { bitmaps[s.device.index].clearBusy(s.slot) }

  /// How full the tiers are, system areas left out.
  func occupancy() -> TierOccupancy {
    var o = TierOccupancy(count: tierCount)
    for i in 0..<deviceCount {
      let t = tiers[i].index
      o.totalSlots[t] += bitmaps[i].slotCount - systemSlots[i]
      o.usedSlots[t] += bitmaps[i].slotCount - systemSlots[i] - bitmaps[i].freeCount
    }
    return o
  }
}
