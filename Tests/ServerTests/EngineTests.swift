import Base
import CAllocationCount
import DeviceIO
import DiskFormat
import Glibc
import NBDProtocol
import RingIO
import Server
import Testing
import VolumeEngine

/// A pool of two files, formatted anew, served by the real engine.
private final class FilePool: Sendable {
  let directory: String
  static let volumeSize = 64 << 20

  init() throws {
    var template = Array("/tmp/server-pool-XXXXXX".utf8CString)
    _ = mkdtemp(&template)
    directory = String(
      decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    for (path, size) in zip(paths, [256 << 20, 128 << 20] as [UInt64]) {
      try DeviceFile.make(path: path, size: size)
    }
    let devices = try RingWaitingDevices(DeviceSet(paths: paths))
    try PoolFormat.format(
      FormatPlan(
        poolID: Identity(high: 1, low: 2), volumeName: "vol",
        volumeSize: UInt64(Self.volumeSize),
        devices: [
          FormatDevice(identity: Identity(high: 1, low: 3), tier: TierIndex(0), size: 256 << 20),
          FormatDevice(identity: Identity(high: 1, low: 4), tier: TierIndex(1), size: 128 << 20),
        ], tierNames: ["fast", "slow"], logSize: 96 << 20), on: devices, progress: { _, _ in })
  }

  deinit {
    for path in paths { unlink(path) }
    rmdir(directory)
  }

  var paths: [String] { [directory + "/a", directory + "/b"] }

  /// Opens and serves until it is shut down.
  func serve(
    _ configuration: ServerConfiguration, _ listeners: [Listener], _ mailbox: Mailbox
  ) throws {
    try serve(configuration, listeners, mailbox, counting: nil)
  }

  func serve(
    _ configuration: ServerConfiguration, _ listeners: [Listener], _ mailbox: Mailbox,
    counting control: VolumeControl?
  ) throws {
    let set = try DeviceSet(paths: paths)
    var waiting: RingWaitingDevices? = try RingWaitingDevices(set)
    let superblock = try PoolFormat.readSuperblock(on: waiting!)
    let plan = try MemoryPlan.plan(budget: 256 << 20, superblock: superblock)
    let memory = try MemoryRegion(size: plan.arenaBytes)
    var arena = Arena(base: memory.base, capacity: memory.count)
    let clients = arena.take(plan.clientBytes)
    let volume = try Volume.open(
      devices: waiting!, staging: PrivateStaging(), arena: &arena,
      options: VolumeOptions(bootID: Identity(high: 9, low: 9), memory: plan),
      policy: FirstTier(), now: MonotonicClock.now())
    waiting = nil
    let signals = try SignalDescriptor([SIGUSR2])
    defer { signals.close() }
    let clientMemory = UnsafeMutableRawBufferPointer(start: clients, count: plan.clientBytes)
    if let control {
      try Server.serve(
        configuration, volume: CountedVolume(volume: volume, control: control), devices: set,
        listeners: listeners, signals: signals, clientMemory: clientMemory, mailbox: mailbox,
        logger: TestServer.logger)
      return
    }
    try Server.run(
      configuration, volume: volume, devices: set, listeners: listeners, signals: signals,
      clientMemory: clientMemory,
      registered: [RegisteredMemory(memory.bytes, name: "memory")], mailbox: mailbox,
      logger: TestServer.logger)
  }
}

/// The engine, with the allocations of its thread told to the test.
private struct CountedVolume: ServedVolume, ~Copyable {
  var volume: Volume
  let control: VolumeControl

  var size: UInt64 { volume.size }
  var canAccept: Bool { volume.canAccept }
  mutating func grow(to bytes: UInt64) { volume.grow(to: bytes) }
  mutating func submit(_ request: VolumeRequest) { volume.submit(request) }
  mutating func complete(_ completion: DeviceCompletion) { volume.complete(completion) }
  mutating func step(now: Instant) {
    volume.step(now: now)
    control.allocations = allocation_count()
  }
  mutating func nextOperation() -> DeviceOperation? { volume.nextOperation() }
  mutating func nextReply() -> VolumeReply? { volume.nextReply() }
  var nextDeadline: Instant? { volume.nextDeadline }
  mutating func beginShutdown() { volume.beginShutdown() }
  var isShutDown: Bool { volume.isShutDown }
  func statistics() -> VolumeStatistics { volume.statistics() }
  func deviceStatistics(_ device: DeviceIndex) -> DeviceStatistics {
    volume.deviceStatistics(device)
  }
  mutating func takeNotice() -> VolumeNotice? { volume.takeNotice() }
}

/// A staging ring in memory of the process's own: a clean end needs no more.
private final class PrivateStaging: StagingStore {
  func open(pool: Identity, ring: UInt64) -> UnsafeMutableRawBufferPointer? { nil }
  func create(pool: Identity, ring: UInt64, size: Int) -> UnsafeMutableRawBufferPointer? {
    guard let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
      memory != MAP_FAILED
    else { return nil }
    return UnsafeMutableRawBufferPointer(start: memory, count: size)
  }
  func remove(pool: Identity, ring: UInt64) {}
}

private final class FirstTier: PlacementPolicy {
  func noteAccess(
    _ extent: ExtentIndex, bytes: Int, requestBytes: Int, isWrite: Bool, now: Instant
  ) {}
  func noteWanted(_ extent: ExtentIndex, now: Instant) {}
  func heat(of extent: ExtentIndex, now: Instant) -> Double { 0 }
  func preferredTier(
    for extent: ExtentIndex, current: TierIndex?, tiers: borrowing TierOccupancy, now: Instant
  ) -> TierIndex { TierIndex(0) }
  func proposedMove(
    for extent: ExtentIndex, current: TierIndex, tiers: borrowing TierOccupancy, now: Instant
  ) -> TierIndex? { nil }
  func noteMoved(
    _ extent: ExtentIndex, from: TierIndex, to: TierIndex, succeeded: Bool, now: Instant
  ) {}
  func volumeGrew(to bytes: UInt64) {}
  func tick(tiers: borrowing TierOccupancy, now: Instant) -> UInt64 { 0 }
}

@Suite(.serialized) struct EngineTests {
  private func pattern(_ count: Int, _ seed: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ seed &* 5 &+ $0 >> 9) }
  }

  /// What several clients wrote is there after a clean stop and a new start.
  @Test func dataOutlivesTheServer() throws {
    let pool = try FilePool()
    var model = [UInt8](repeating: 0, count: FilePool.volumeSize)
    var random = Xorshift(state: 99)
    for life in 0..<3 {
      let server = try TestServer(body: pool.serve)
      let clients = [
        try Client(server, .simple), try Client(server, .structured, contexts: ["base:allocation"]),
        try Client(server, .extended),
      ]
      for i in 0..<150 {
        let client = clients[i % 3]
        let count = [1, 700, 4096, 65_536, 1 << 20, 2_500_000][random.below(6)]
        let offset = random.below(model.count - count)
        let range = offset..<offset + count
        switch random.below(4) {
        case 0:
          let reply = client.read(UInt64(offset), count)
          #expect(reply.error == 0 && reply.data == Array(model[range]))
        case 1:
          let reply = client.call(6, offset: UInt64(offset), length: UInt64(count))
          #expect(reply.error == 0)
          model.replaceSubrange(range, with: [UInt8](repeating: 0, count: count))
        default:
          let data = pattern(count, life * 1000 + i)
          #expect(client.write(UInt64(offset), data, flags: UInt16(i & 1)).error == 0)
          model.replaceSubrange(range, with: data)
        }
        if i % 20 == 0 { #expect(client.call(3).error == 0) }
      }
      for client in clients {
        #expect(client.read(0, 32 << 20).data == Array(model[..<(32 << 20)]))
        client.send(client.request(2).packet)
        #expect(client.isAtEnd)
      }
      server.expectIdle()
      #expect(server.mailbox.snapshot.volume.writeOps > 0)
      server.stop()
    }
  }

  /// From socket to log and back, nothing is allocated for a request.
  @Test func requestsAllocateNothing() throws {
    let pool = try FilePool()
    let control = VolumeControl()
    let server = try TestServer(control: control) {
      try pool.serve($0, $1, $2, counting: control)
    }
    let client = try Client(server, .extended)
    func traffic(_ rounds: Int) {
      for i in 0..<rounds {
        let offset = UInt64(i % 100) * 8192
        #expect(client.write(offset, [UInt8](repeating: 3, count: 4096)).error == 0)
        #expect(client.read(offset, 8192).error == 0)
        if i % 10 == 0 {
          #expect(client.write(offset + 5, [UInt8](repeating: 4, count: 200_000)).error == 0)
          #expect(client.read(offset + 5, 2 << 20).error == 0)
          #expect(client.call(3).error == 0)
        }
      }
    }
    traffic(200)
    // The snapshot of each second allocates: the least of several tries counts.
    var least = UInt64.max
    for _ in 0..<8 {
      let before = control.allocations
      traffic(50)
      usleep(5000)
      least = min(least, control.allocations - before)
    }
    #expect(least == 0)
    client.close()
    server.stop()
  }

  /// The common tools agree with us, where they are installed.
  @Test func otherClients() throws {
    let pool = try FilePool()
    let server = try TestServer(body: pool.serve)
    guard case .unix(let path) = server.address else { return }
    let uri = "nbd+unix:///vol?socket=\(path)"
    run("nbdinfo", [uri])
    run("nbdinfo", ["--map", uri])
    run(
      "qemu-io",
      [
        "-f", "raw", "-c", "write -P 7 4096 1M", "-c", "read -P 7 4096 1M",
        "-c", "discard 8192 64k", "-c", "write -z 1M 8M", "-c", "flush",
        "-c", "write -f -P 9 33000 500",
        "-c", "read -P 9 33000 500", uri,
      ])
    run("nbdcopy", [uri, "null:"])
    server.expectIdle()
    server.stop()
  }

  private func run(_ name: String, _ arguments: [String]) {
    guard access("/usr/bin/" + name, X_OK) == 0 else { return }
    var words: [UnsafeMutablePointer<CChar>?] = ([name] + arguments).map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var process: pid_t = 0
    let code = posix_spawn(&process, "/usr/bin/" + name, &actions, nil, &words, environ)
    #expect(code == 0)
    var status: Int32 = 0
    waitpid(process, &status, 0)
    #expect(status == 0, "\(name) \(arguments)")
  }
}
