import Base
import CAllocationCount
import DeviceIO
import Glibc
import RingIO
import Testing

private let kind = OperationTag.firstServerKind

/// Waits for one completion, at most 5 s.
private func one(_ ring: inout Ring) -> RingCompletion? {
  var batch = CompletionBatch()
  for _ in 0..<5 {
    ring.submitAndWait(atMost: 1_000_000_000)
    if ring.drain(&batch) > 0 {
      #expect(batch.count == 1)
      return batch[0]
    }
  }
  return nil
}

@Suite(.serialized) struct RingTests {
  @Test func tagsKeepTheirParts() {
    let tag = OperationTag(kind: 200, slot: 0xdead_beef, generation: 0x12ab_cdef)
    #expect(tag.kind == 200)
    #expect(tag.slot == 0xdead_beef)
    #expect(tag.generation == 0xab_cdef)
  }

  @Test func waitingEndsWithTheTime() throws {
    var ring = try Ring()
    var batch = CompletionBatch()
    for limit in [UInt64(0), 30_000_000] {
      let start = MonotonicClock.now()
      ring.submitAndWait(atMost: limit)
      let took = MonotonicClock.now().since(start)
      #expect(took >= limit && took < limit + 1_000_000_000)
      #expect(ring.drain(&batch) == 0)
    }
    // A completion that is there ends any wait.
    ring.nothing(OperationTag(kind: kind, slot: 5))
    ring.submitAndWait(atMost: nil)
    #expect(ring.drain(&batch) == 1)
    #expect(batch[0].tag.slot == 5 && batch[0].result == 0)
  }

  /// More than the submission and completion queues hold: nothing is lost (R5).
  @Test func overfullQueuesLoseNothing() throws {
    var ring = try Ring(RingOptions(entries: 8, completions: 16))
    var seen = Set<UInt32>()
    for i in 0..<1000 { ring.nothing(OperationTag(kind: kind, slot: UInt32(i))) }
    var batch = CompletionBatch()
    while seen.count < 1000 {
      ring.submitAndWait(atMost: 1_000_000_000)
      while ring.drain(&batch) > 0 {
        for i in 0..<batch.count { #expect(seen.insert(batch[i].tag.slot).inserted) }
      }
    }
    #expect(seen.count == 1000)
  }

  /// The older ways to set a ring up do the same, and are named in the notes.
  @Test(arguments: [1, 2]) func olderKernels(missing: Int) throws {
    var options = RingOptions()
    options.withoutNewest = missing
    let directory = TemporaryDirectory()
    let path = try directory.file("device", size: 1 << 20)
    var ring = DeviceRing(try Ring(options), try DeviceSet(paths: [path]), limit: 8)
    #expect(ring.ring.notes.count == 1)
    let memory = Pages(1 << 20)
    for i in 0..<256 {
      ring.submit(
        DeviceOperation(
          .read, device: DeviceIndex(UInt8(0)), offset: UInt64(i * 4096), length: 4096,
          memory: memory.base + i * 4096, token: UInt64(i)))
    }
    var completed = 0
    while completed < 256 {
      ring.submitAndWait(until: nil, now: Instant(nanoseconds: 0))
      while let event = ring.nextEvent() {
        if case .device(let done) = event, done.result == 4096 { completed += 1 }
      }
    }
    #expect(ring.pending == 0)
  }

  @Test func registeredRegionsAreLimitedButHarmless() throws {
    var ring = try Ring(RingOptions(buffers: 2))
    let memory = try MemoryRegion(size: 3 * 65536)
    for i in 0..<3 {
      let part = UnsafeMutableRawBufferPointer(start: memory.base + i * 65536, count: 65536)
      let isRegistered = ring.register(part, name: "part \(i)")
      #expect(isRegistered == (i < 2))
    }
    #expect(ring.notes.count == 1)
  }

  /// Under a low limit of locked memory (and without CAP_IPC_LOCK) everything works, with a note.
  @Test func withoutLockedMemory() throws {
    guard geteuid() != 0 else { return }
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
    guard limit.rlim_max < 1 << 30 else { return }
    var ring = try Ring()
    let memory = try MemoryRegion(size: 1 << 30)
    let isRegistered = ring.register(memory.bytes, name: "a gibibyte")
    #expect(!isRegistered && ring.notes.count == 1)
  }

  @Test func echoThroughASocketPair() throws {
    var ring = try Ring()
    let ends = try Socket.pair()
    let here = ring.install(ends.0)
    let there = RingFile(descriptor: ends.1)
    #expect(here.isInstalled)
    let buffer = Pages(65536)
    let source = Pages(65536)
    source.fill(11)
    let header = UnsafeMutablePointer<SendHeader>.allocate(capacity: 1)
    let vectors = UnsafeMutablePointer<SendVector>.allocate(capacity: 2)
    header.initialize(to: SendHeader())
    vectors[0] = SendVector(source.base, 4)
    vectors[1] = SendVector(source.base + 4, 65532)
    defer {
      header.deallocate()
      vectors.deallocate()
    }
    ring.receive(there, buffer.base, 65536, all: true, OperationTag(kind: kind, slot: 1))
    ring.sendMessage(here, header, vectors, 2, OperationTag(kind: kind, slot: 2))
    var results: [UInt32: Int32] = [:]
    var batch = CompletionBatch()
    while results.count < 2 {
      ring.submitAndWait(atMost: 1_000_000_000)
      while ring.drain(&batch) > 0 {
        for i in 0..<batch.count { results[batch[i].tag.slot] = batch[i].result }
      }
    }
    #expect(results == [1: 65536, 2: 65536])
    #expect(buffer.equals(source))

    // A receive can be cancelled; a hang-up is told apart from data; the end of stream is 0.
    ring.receive(here, buffer.base, 16, OperationTag(kind: kind, slot: 3))
    ring.submit()
    ring.cancel(OperationTag(kind: kind, slot: 3), OperationTag(kind: kind, slot: 4))
    var cancelled: [UInt32: Int32] = [:]
    while cancelled.count < 2 {
      ring.submitAndWait(atMost: 1_000_000_000)
      while ring.drain(&batch) > 0 {
        for i in 0..<batch.count { cancelled[batch[i].tag.slot] = batch[i].result }
      }
    }
    #expect(cancelled == [3: -ECANCELED, 4: 0])
    ring.poll(here, events: Ring.hangUp, OperationTag(kind: kind, slot: 5))
    ring.submit()
    close(ends.1)
    let hangUp = one(&ring)
    #expect(hangUp?.tag.slot == 5 && (hangUp?.result ?? 0) & Ring.hangUp != 0)
    ring.receive(here, buffer.base, 16, OperationTag(kind: kind, slot: 6))
    let end = one(&ring)
    #expect(end?.tag.slot == 6 && end?.result == 0)
    ring.remove(here)
    ring.close(ends.0, OperationTag(kind: OperationTag.ignored))
    let closed = one(&ring)
    #expect(closed?.result == 0)
  }

  @Test func eventsAndSignals() throws {
    var ring = try Ring()
    let wake = try WakeUp()
    let signals = try SignalDescriptor([SIGUSR2])
    let memory = Pages(4096)
    ring.readEvent(
      RingFile(descriptor: wake.descriptor), memory.base, WakeUp.messageSize,
      OperationTag(kind: kind, slot: 1))
    ring.submit()
    wake.signal()
    let woken = one(&ring)
    #expect(woken?.result == 8)
    ring.readEvent(
      RingFile(descriptor: signals.descriptor), memory.base, SignalDescriptor.messageSize,
      OperationTag(kind: kind, slot: 2))
    ring.submit()
    pthread_kill(pthread_self(), SIGUSR2)
    let signalled = one(&ring)
    #expect(signalled?.result == 128)
    #expect(SignalDescriptor.number(in: memory.base) == SIGUSR2)
    wake.close()
    signals.close()
  }

  /// The promise of the data path: after a warm-up, no allocation.
  @Test func theDataPathAllocatesNothing() throws {
    let directory = TemporaryDirectory()
    let path = try directory.file("device", size: 1 << 20)
    var ring = DeviceRing(try Ring(), try DeviceSet(paths: [path]), capacity: 64, limit: 32)
    let memory = try MemoryRegion(size: 64 * 4096, populated: true)
    ring.ring.register(memory.bytes, name: "memory")
    var errors = 0
    var before: UInt64 = 0
    for round in 0..<2000 {
      if round == 100 { before = allocation_count() }
      for i in 0..<50 {
        ring.submit(
          DeviceOperation(
            .read, device: DeviceIndex(UInt8(0)), offset: UInt64(i * 4096), length: 4096,
            memory: memory.base + i * 4096, token: UInt64(i)))
      }
      for i in 0..<10 { ring.ring.nothing(OperationTag(kind: kind, slot: UInt32(i))) }
      var missing = 60
      while missing > 0 {
        ring.submitAndWait(until: nil, now: Instant(nanoseconds: 0))
        while let event = ring.nextEvent() {
          missing -= 1
          if case .device(let done) = event, done.result != 4096 { errors += 1 }
        }
      }
    }
    #expect(allocation_count() == before)
    // The counter is alive at all (unless a sanitizer has the allocator).
    let old = allocation_count()
    Pages(4096).fill(1)
    #expect(allocation_count() > old || old == 0)
    #expect(errors == 0)
  }
}
