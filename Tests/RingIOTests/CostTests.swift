import Base
import DeviceIO
import Glibc
import RingIO
import Testing

/// Prints what a read costs; asserts only that it works, since the machine is shared.
@Suite(.serialized) struct CostTests {
  @Test(arguments: [true, false], ["/tmp", "/dev/shm"])
  func costOfARead(registered: Bool, parent: String) throws {
    #if DEBUG
      let operations = 2_000
    #else
      let operations = 100_000
    #endif
    let depth = 32
    let directory = TemporaryDirectory(below: parent)
    let blocks = 4096
    let path = try directory.file("device", size: UInt64(blocks * 4096))
    try fill(path, blocks)
    var ring = DeviceRing(try Ring(), try DeviceSet(paths: [path]))
    let memory = try MemoryRegion(size: depth * 4096, populated: true)
    if registered { ring.ring.register(memory.bytes, name: "memory") }
    var random: UInt64 = 88_172_645_463_325_252
    var submitted = 0
    var completed = 0
    var turns = 0
    func next(_ slot: Int, _ random: inout UInt64) -> DeviceOperation {
      random ^= random << 13
      random ^= random >> 7
      random ^= random << 17
      return DeviceOperation(
        .read, device: DeviceIndex(UInt8(0)), offset: (random % UInt64(blocks)) * 4096,
        length: 4096, memory: memory.base + slot * 4096, token: UInt64(slot))
    }
    let start = Usage()
    for slot in 0..<depth {
      ring.submit(next(slot, &random))
      submitted += 1
    }
    var failed = 0
    while completed < operations {
      turns += 1
      ring.submitAndWait(until: nil, now: Instant(nanoseconds: 0))
      while let event = ring.nextEvent() {
        guard case .device(let done) = event else { continue }
        completed += 1
        if done.result != 4096 { failed += 1 }
        if submitted < operations {
          ring.submit(next(Int(done.token), &random))
          submitted += 1
        }
      }
    }
    let end = Usage()
    #expect(failed == 0)
    let user = (end.user - start.user) / UInt64(operations)
    let system = (end.system - start.system) / UInt64(operations)
    let wall = end.wall.since(start.wall) / UInt64(operations)
    print(
      "4 KiB read, depth \(depth), \(parent), registered \(registered): "
        + "\(user) ns user + \(system) ns system, \(wall) ns wall, "
        + "\(operations / turns) a turn")
  }

  private func fill(_ path: String, _ blocks: Int) throws {
    let devices = try RingWaitingDevices(try DeviceSet(paths: [path]))
    let content = Pages(blocks * 4096)
    content.fill(1)
    let write = DeviceOperation(
      .write, device: DeviceIndex(UInt8(0)), offset: 0, length: content.count,
      memory: content.base, token: 0)
    #expect(devices.perform(write) == Int32(content.count))
  }
}

/// The calling thread's processor time in nanoseconds, and the clock.
private struct Usage {
  let user: UInt64
  let system: UInt64
  let wall: Instant

  init() {
    var usage = rusage()
    getrusage(__rusage_who_t(1), &usage)
    user = UInt64(usage.ru_utime.tv_sec) * 1_000_000_000 + UInt64(usage.ru_utime.tv_usec) * 1000
    system = UInt64(usage.ru_stime.tv_sec) * 1_000_000_000 + UInt64(usage.ru_stime.tv_usec) * 1000
    wall = MonotonicClock.now()
  }
}
