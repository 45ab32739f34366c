import Base
import DiskFormat
import Testing

@Suite struct SuperblockTests {
  private func chunk(_ random: inout Random) -> ChunkEntry {
    var checks = [8 of UInt32](repeating: 0)
    for i in 0..<8 { checks[i] = UInt32(truncatingIfNeeded: random.next()) }
    return ChunkEntry(
      address: SlotAddress(device: DeviceIndex(random.next(below: 32)), slot: random.next() >> 16),
      choices: UInt8(truncatingIfNeeded: random.next()), checks: checks)
  }

  /// A superblock whose every field has a value of its own.
  private func sample(devices: Int, tiers: Int, seed: UInt64 = 1) -> Superblock {
    var random = Random(seed: seed)
    var block = Superblock(
      pool: somePool, volumeName: String(repeating: "v", count: 63),
      volumeSize: 1 << 44,
      tierNames: (0..<tiers).map { String(repeating: "t", count: 14) + "\($0)" },
      log: LogGeometry(
        offset: Layout.systemArea, segmentSize: 8 << 20, segmentCount: 128, logBlock: 4096),
      devices: (0..<devices).map { i in
        Superblock.DeviceEntry(
          identity: Identity(high: random.next(), low: random.next()),
          size: 1 << 40 + UInt64(i) << 16, tier: TierIndex(i % tiers),
          state: DeviceState.allCases[i % DeviceState.allCases.count],
          bitmapRoot: chunk(&random))
      })
    block.serial = random.next()
    block.incarnation = random.next()
    block.bootID = Identity(high: random.next(), low: random.next())
    block.ringID = random.next()
    block.isClean = seed & 1 == 0
    block.epoch = Epoch(UInt32(truncatingIfNeeded: random.next()))
    block.boundary = LogPosition(random.next())
    block.boundaryCRC = UInt32(truncatingIfNeeded: random.next())
    block.watermark = LogPosition(random.next())
    block.nextSegmentSerial = random.next()
    block.extentRoot = chunk(&random)
    block.versionRoot = chunk(&random)
    block.chunkCount = random.next()
    return block
  }

  private func encoded(_ superblock: Superblock) -> Block {
    let block = Block()
    superblock.encode(into: block.bytes)
    return block
  }

  private func isMismatch(_ block: Block) -> Bool {
    Frame.seal(
      block.bytes, magic: UnsafeRawPointer(block.bytes).u32(0), seed: PoolSeed(somePool))
    do {
      _ = try Superblock.decode(block.bytes, pool: somePool)
      return false
    } catch {
      if case .mismatch = error { return true }
      return false
    }
  }

  @Test func roundTripOfEverySize() throws {
    for devices in 1...Layout.maxDevices {
      for tiers in 1...Layout.maxTiers {
        let want = sample(devices: devices, tiers: tiers, seed: UInt64(devices * 8 + tiers))
        #expect(try Superblock.decode(encoded(want).bytes, pool: somePool) == want)
      }
    }
  }

  @Test func fieldsLieWhereTheTableSays() {
    let want = sample(devices: 2, tiers: 2)
    let block = encoded(want)
    let p = UnsafeRawPointer(block.bytes)
    #expect(p.u32(8) == Layout.formatVersion && p.u32(12) == 1)
    #expect(p.identity(16) == want.pool && p.identity(48) == want.bootID)
    #expect(p.u64(32) == want.serial && p.u64(40) == want.incarnation)
    #expect(p.u64(64) == want.ringID)
    #expect(p.u8(72) == 0 && p.u8(73) == 2 && p.u8(74) == 2)
    #expect(p.u32(76) == want.epoch.rawValue)
    #expect(p.u64(80) == want.boundary.rawValue && p.u32(88) == want.boundaryCRC)
    #expect(p.u64(96) == want.watermark.rawValue && p.u64(104) == want.nextSegmentSerial)
    #expect(p.u64(112) == want.log.offset && p.u32(120) == 8 << 20)
    #expect(p.u32(124) == 128 && p.u32(128) == 4096)
    #expect(p.u64(136) == want.volumeSize && p.u8(144) == UInt8(ascii: "v"))
    #expect(p.u8(208) == UInt8(ascii: "t") && p.u8(224) == UInt8(ascii: "t"))
    #expect(ChunkEntry(p + 336) == want.extentRoot && ChunkEntry(p + 377) == want.versionRoot)
    for i in 0..<2 {
      let entry = p + 512 + 96 * i
      #expect(entry.identity(0) == want.devices[i].identity)
      #expect(entry.u64(16) == want.devices[i].size)
      #expect(entry.u8(24) == want.devices[i].tier.rawValue)
      #expect(entry.u8(25) == want.devices[i].state.rawValue)
      #expect(ChunkEntry(entry + 32) == want.devices[i].bitmapRoot)
    }
  }

  @Test func everyFlippedBitIsNoticed() {
    let unnoticed = encoded(sample(devices: 3, tiers: 2)).unnoticedFlips(0..<4096) {
      (try? Superblock.decode($0, pool: somePool)) != nil
    }
    #expect(unnoticed == [])
  }

  @Test func anotherPoolIsRefused() {
    let block = encoded(sample(devices: 1, tiers: 1))
    #expect(throws: FormatError.badChecksum) {
      try Superblock.decode(block.bytes, pool: otherPool)
    }
    // The same seed, and another pool's identity in it.
    block.bytes.putIdentity(16, otherPool)
    #expect(isMismatch(block))
  }

  @Test func whatCannotBeIsRefused() {
    let changes: [(Int, UInt64)] = [
      (8, 99), (12, 2), (73, 0), (73, 33), (74, 0), (74, 9), (536, 8), (537, 6),
      (128, 0), (128, 2048), (128, 4097), (128, 1 << 17), (120, 4096 * 15), (120, 128 << 20),
      (120, 8 << 20 + 512), (124, 3), (124, 1 << 21), (112, 0), (112, 1 << 41), (112, .max),
    ]
    for (offset, value) in changes {
      let block = encoded(sample(devices: 3, tiers: 3))
      switch offset {
      case 112: block.bytes.put64(offset, value)
      case 8, 12, 120, 124, 128: block.bytes.put32(offset, UInt32(value))
      default: block.bytes.put8(offset, UInt8(value))
      }
      #expect(isMismatch(block), "\(value) at \(offset)")
    }
  }

  /// Whatever lies behind a true check: a value or an error, never a trap.
  @Test func anyBytesAreDecodedOrRefused() {
    var random = Random(seed: 6)
    var decoded = 0
    let block = Block()
    let superblock = sample(devices: 4, tiers: 2)
    for round in 0..<4000 {
      superblock.encode(into: block.bytes)
      block.scramble(from: 8, count: round % 40, &random)
      if round % 2 == 0 { block.bytes.putIdentity(16, somePool) }
      Frame.seal(
        block.bytes, magic: UnsafeRawPointer(block.bytes).u32(0), seed: PoolSeed(somePool))
      guard let value = try? Superblock.decode(block.bytes, pool: somePool) else { continue }
      decoded += 1
      #expect(value.log.capacity > 0 && value.log.areaSize <= value.devices[0].size)
    }
    #expect(decoded > 500)
  }

  @Test func segmentsOfTheLog() {
    let log = LogGeometry(offset: 1 << 20, segmentSize: 8 << 20, segmentCount: 5, logBlock: 4096)
    #expect(log.footerArea == 65536)
    #expect(log.segmentCapacity == 8 << 20 - 4096 - 65536)
    #expect(log.capacity == 5 * log.segmentCapacity)
    #expect(log.segmentOffset(0) == 1 << 20)
    #expect(log.segmentOffset(5) == 1 << 20 + log.areaSize)
  }
}
