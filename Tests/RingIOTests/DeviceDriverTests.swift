import Base
import DeviceIO
import Glibc
import RingIO
import Testing

private let mebibyte = 1 << 20
private let first = DeviceIndex(UInt8(0))

/// Writes, reads back, flushes, discards: what every kind of device must do alike.
private func exercise(_ path: String, expectDiscard: Bool) throws {
  let set = try DeviceSet(paths: [path])
  let devices = try RingWaitingDevices(set)
  let geometry = set.geometry(of: first)
  let source = Pages(mebibyte)
  let target = Pages(mebibyte)
  source.fill(7)
  let write = DeviceOperation(
    .write, device: first, offset: UInt64(mebibyte), length: mebibyte, memory: source.base,
    token: 1)
  #expect(devices.perform(write) == Int32(mebibyte))
  #expect(devices.perform(DeviceOperation(.flush, device: first, token: 2)) == 0)
  let read = DeviceOperation(
    .read, device: first, offset: UInt64(mebibyte), length: mebibyte, memory: target.base,
    token: 3)
  #expect(devices.perform(read) == Int32(mebibyte))
  #expect(target.equals(source))

  // The least unit, through, at the very end of the device.
  let unit = geometry.logicalBlock
  let last = DeviceOperation(
    .writeThrough, device: first, offset: geometry.size - UInt64(unit), length: unit,
    memory: source.base, token: 4)
  #expect(devices.perform(last) == Int32(unit))
  let end = Pages(4096)
  let readEnd = DeviceOperation(
    .read, device: first, offset: geometry.size - UInt64(unit), length: unit, memory: end.base,
    token: 5)
  #expect(devices.perform(readEnd) == Int32(unit))
  #expect(memcmp(end.base, source.base, unit) == 0)

  let discard = DeviceOperation(
    .discard, device: first, offset: UInt64(mebibyte), length: mebibyte, token: 6)
  let result = devices.perform(discard)
  #expect(geometry.supportsDiscard == expectDiscard)
  if expectDiscard {
    #expect(result == Int32(mebibyte))
    #expect(devices.perform(read) == Int32(mebibyte))
    #expect(target.isZero)
  }
}

@Suite(.serialized) struct DeviceDriverTests {
  @Test func fileIsReadAsWritten() throws {
    let directory = TemporaryDirectory()
    let path = try directory.file("device", size: UInt64(16 * mebibyte))
    try exercise(path, expectDiscard: true)
  }

  @Test func fileInMemoryIsReadAsWritten() throws {
    let directory = TemporaryDirectory(below: "/dev/shm")
    let path = try directory.file("device", size: UInt64(16 * mebibyte))
    try exercise(path, expectDiscard: true)
  }

  @Test(arguments: [512, 4096])
  func loopDeviceIsReadAsWritten(sector: Int) throws {
    let directory = TemporaryDirectory()
    let path = try directory.file("backing", size: UInt64(16 * mebibyte))
    guard let loop = LoopDevice(over: path, sector: sector) else { return }
    let geometry = try DeviceSet(paths: [loop.path]).geometry(of: first)
    #expect(geometry.logicalBlock == sector)
    #expect(geometry.size == UInt64(16 * mebibyte))
    try exercise(loop.path, expectDiscard: true)
  }

  /// More operations than the driver has room for, on two devices at once, each completed once.
  @Test func aLargeBatchIsPerformedOnce() throws {
    let directory = TemporaryDirectory()
    let paths = [
      try directory.file("a", size: UInt64(8 * mebibyte)),
      try directory.file("b", size: UInt64(8 * mebibyte)),
    ]
    let devices = try RingWaitingDevices(try DeviceSet(paths: paths))
    let memory = Pages(8 * mebibyte)
    memory.fill(3)
    var operations: [DeviceOperation] = []
    for i in 0..<4096 {
      let block = i / 2
      operations.append(
        DeviceOperation(
          .write, device: DeviceIndex(i % 2), offset: UInt64(block * 4096), length: 4096,
          memory: memory.base + block * 4096, token: 0))
    }
    #expect(devices.perform(operations).allSatisfy { $0 == 4096 })
    for device in 0..<2 {
      let back = Pages(8 * mebibyte)
      let read = DeviceOperation(
        .read, device: DeviceIndex(device), offset: 0, length: back.count, memory: back.base,
        token: 0)
      #expect(devices.perform(read) == Int32(back.count))
      #expect(back.equals(memory))
    }
  }

  /// A file cut short behind the server's back is an error of the device, not a hang or a crash.
  @Test(arguments: [0, 4096, 4096 + 512, 4096 + 100])
  func aFileCutShortIsAnError(left: Int) throws {
    let directory = TemporaryDirectory()
    let path = try directory.file("device", size: UInt64(mebibyte))
    let devices = try RingWaitingDevices(try DeviceSet(paths: [path]))
    truncate(path, left)
    let memory = Pages(65536)
    let read = DeviceOperation(
      .read, device: first, offset: 0, length: 65536, memory: memory.base, token: 0)
    #expect(devices.perform(read) == -EIO)
  }

  /// A short transfer goes on where it ended, in the file and in memory.
  @Test func aShortReadIsFinished() throws {
    let directory = TemporaryDirectory()
    let path = try directory.file("device", size: 65536)
    let content = Pages(65536)
    content.fill(5)
    let descriptor = open(path, O_RDWR)
    defer { close(descriptor) }
    pwrite(descriptor, content.base, 65536, 0)
    fsync(descriptor)
    var ring = DeviceRing(try Ring(), try DeviceSet(paths: [path]))
    let memory = Pages(65536)
    ftruncate(descriptor, 20480)
    ring.submit(
      DeviceOperation(
        .read, device: first, offset: 4096, length: 61440, memory: memory.base + 4096, token: 9))
    ring.submitAndWait(until: nil, now: Instant(nanoseconds: 0))
    pwrite(descriptor, content.base, 65536, 0)
    fsync(descriptor)
    let early = ring.nextEvent() == nil
    #expect(early && ring.resubmissions == 1)
    ring.submitAndWait(until: nil, now: Instant(nanoseconds: 0))
    guard case .device(let done)? = ring.nextEvent() else {
      Issue.record("no completion")
      return
    }
    #expect(done.token == 9 && done.result == 61440)
    memcpy(memory.base, content.base, 4096)
    #expect(memory.equals(content))
  }

  /// The same operations through a registered region, on the server's ring, in order of tokens.
  @Test func registeredMemoryAndTokens() throws {
    let directory = TemporaryDirectory()
    let path = try directory.file("device", size: UInt64(4 * mebibyte))
    let set = try DeviceSet(paths: [path])
    var region = DeviceRing(try Ring(), set, capacity: 64, limit: 4)
    let memory = try MemoryRegion(size: 2 * mebibyte, populated: true)
    let isRegistered = region.ring.register(memory.bytes, name: "test memory")
    #expect(isRegistered == region.ring.notes.isEmpty)
    for i in 0..<(mebibyte / 8) { memory.base.put64(i * 8, UInt64(i) &* 0x1234_5678_9abc_def1) }
    var seen = Set<UInt64>()
    for pass in 0..<2 {
      for i in 0..<64 {
        region.submit(
          DeviceOperation(
            pass == 0 ? .write : .read, device: first, offset: UInt64(i * 16384), length: 16384,
            memory: memory.base + pass * mebibyte + i * 16384,
            token: UInt64.max - UInt64(pass * 64 + i)))
      }
      #expect(region.room == 0)
      let start = MonotonicClock.now()
      while region.pending > 0 {
        region.submitAndWait(until: start + Milliseconds(5000), now: MonotonicClock.now())
        while let event = region.nextEvent() {
          guard case .device(let done) = event else {
            Issue.record("an unexpected event")
            return
          }
          #expect(done.result == 16384)
          #expect(seen.insert(done.token).inserted)
        }
      }
    }
    #expect(seen.count == 128)
    #expect(memcmp(memory.base, memory.base + mebibyte, mebibyte) == 0)
  }
}
