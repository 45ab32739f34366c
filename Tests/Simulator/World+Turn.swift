import Base
import DeviceIO
import DiskFormat
import VolumeEngine

/// How time goes on: one turn is one turn of a server's loop.
extension World {
  func turn(issuing: Bool) throws(Failure) {
    count(\.turns)
    advanceClock()
    if issuing {
      issue()
      if random.chance(scenario.drainChance) { engine.pointee.drainSoon() }
    }
    deliver()
    engine.pointee.step(now: now)
    takeOrders()
    try takeReplies(most: .max)
    while engine.pointee.takeEvent() != nil {}
    try raiseViolation()
  }

  func raiseViolation() throws(Failure) {
    if let violation = devices.violation { throw violation }
  }

  func advanceClock() {
    var nanoseconds = UInt64(random.magnitude(scenario.turnTime))
    if random.chance(scenario.jumpChance) {
      if random.chance(500) {
        nanoseconds = UInt64(random.magnitude(60_000)) &* 1_000_000
      } else if isOpen, let deadline = engine.pointee.nextDeadline {
        nanoseconds = max(nanoseconds, deadline.since(now))
      }
    }
    now = Instant(nanoseconds: now.nanoseconds &+ nanoseconds)
    trace.now = now.nanoseconds
  }

  func issue() {
    while clients.hasRoom && engine.pointee.canAccept && random.chance(scenario.issueChance) {
      submit(clients.draw(reference))
    }
  }

  func submit(_ request: VolumeRequest) {
    count(\.requests)
    let mark = clients.slots[Int(request.cookie & 0xffff)]?.mark ?? 0
    trace.record(
      .issue, World.label(request.kind), request.cookie & 0xffff, request.offset, request.length,
      UInt64(mark) | UInt64(request.flags.rawValue) << 32)
    engine.pointee.submit(request)
  }

  func deliver() {
    var most = 64
    while most > 0 && random.chance(scenario.deliverChance) {
      guard let completion = devices.deliver() else { break }
      engine.pointee.complete(completion)
      most -= 1
    }
  }

  func takeOrders() {
    while let operation = engine.pointee.nextOperation() { devices.submit(operation) }
  }

  /// Turns without new requests until `done`, within bounded turns and virtual time.
  func settle(_ what: String, until done: () -> Bool) throws(Failure) {
    var turns = 0
    let began = now
    while !done() {
      turns += 1
      if devices.inFlightCount > 0, let completion = devices.deliver() {
        engine.pointee.complete(completion)
      } else if turns > 10, let deadline = engine.pointee.nextDeadline, deadline > now {
        now = deadline
      }
      // An engine that asks for "at once" again and again gets there, too, only slowly.
      if turns > 2000 { now = Instant(nanoseconds: now.nanoseconds &+ 100_000) }
      try turn(issuing: false)
      if turns > 100_000 || now.since(began) > 100_000_000_000_000 {
        throw Failure(
          "After \(turns) turns and \(now.since(began) / 1_000_000) ms \(what) has not ended: "
            + "\(clients.openCount) requests open (\(oldestOpen())), "
            + "\(devices.inFlightCount) device operations in flight, the engine's deadline "
            + "\(engine.pointee.nextDeadline.map { "\($0.since(now)) ns ahead" } ?? "none").")
      }
    }
  }

  private func oldestOpen() -> String {
    let open = clients.slots.compactMap { $0 }.min { $0.cookie < $1.cookie }
    guard let open else { return "none" }
    return "the oldest a \(World.label(open.kind)) of \(open.length) bytes at \(open.offset)"
  }

  // MARK: Replies

  func takeReplies(most: Int) throws(Failure) {
    var left = most
    while left > 0, let reply = engine.pointee.nextReply() {
      left -= 1
      let (slot, open) = try clients.end(reply)
      trace.record(
        .reply, World.label(open.kind), UInt64(slot), UInt64(reply.result.rawValue),
        UInt64(open.mark), reply.errorOffset)
      try judge(reply, slot, open)
    }
  }

  private func judge(_ reply: VolumeReply, _ slot: Int, _ open: OpenRequest) throws(Failure) {
    let succeeded = reply.result == .done
    switch open.kind {
    case .write, .trim, .writeZeroes: reference.endWrite(open.mark, succeeded: succeeded)
    case .flush: if succeeded { reference.endFlush(issued: open.mark) }
    case .cache: reference.endRead(issued: open.mark)
    case .read:
      guard succeeded else {
        reference.endRead(issued: open.mark)
        break
      }
      clients.fillHoles(slot, open)
      let bytes = clients.bytes(slot, open)
      if open.purpose == .observation {
        try reference.observe(cells: open.cells, issued: open.mark, memory: bytes)
      } else {
        try reference.checkRead(cells: open.cells, issued: open.mark, memory: bytes)
      }
    case .blockStatus:
      if succeeded { try judgeStatus(reply, slot, open) }
      reference.endRead(issued: open.mark)
    }
    if !succeeded { try judgeError(reply, open) }
    if succeeded && open.flags.contains(.onlyIfFast) && !open.isWhole {
      throw Failure("Fast zeroes of \(open.length) bytes at \(open.offset) were not refused.")
    }
  }

  /// May this request fail like this?
  private func judgeError(_ reply: VolumeReply, _ open: OpenRequest) throws(Failure) {
    count(\.errors)
    let what = "A \(World.label(open.kind)) of \(open.length) bytes at \(open.offset)"
    switch reply.result {
    case .done: break
    case .ioError:
      if scenario.faults.isEmpty { throw Failure("\(what) failed, with no fault in the world.") }
      if open.kind == .read,
        reply.errorOffset >= open.offset + open.length
          || reply.errorOffset + 4096 <= open.offset
      {
        throw Failure("\(what) failed at \(reply.errorOffset), which it does not touch.")
      }
      if open.purpose == .observation { try observeAgain(open) }
    case .noSpace:
      count(\.noSpace)
      let mayFail = open.kind == .write || open.kind == .writeZeroes
      if !mayFail && (open.kind != .trim || scenario.faults.isEmpty) {
        throw Failure("\(what) met no space.")
      }
      if !scenario.isTight && scenario.faults.isEmpty {
        throw Failure("\(what) met no space in a pool with room for all.")
      }
    case .notSupported:
      if !open.flags.contains(.onlyIfFast) || open.isWhole {
        throw Failure("\(what) is not supported.")
      }
    case .shuttingDown: break
    }
  }

  private func judgeStatus(
    _ reply: VolumeReply, _ slot: Int, _ open: OpenRequest
  ) throws(Failure) {
    let count = Int(reply.descriptorCount)
    if count == 0 || count > Int(open.capacity) {
      throw Failure("Block status gave \(count) descriptors for room of \(open.capacity).")
    }
    if open.flags.contains(.oneDescriptor) && count > 1 {
      throw Failure("Block status gave \(count) descriptors where one was asked for.")
    }
    // SAFETY: the engine wrote `count` descriptors to the slot's pages.
    let descriptors = clients.memory(of: slot).assumingMemoryBound(to: StatusDescriptor.self)
    var at = open.offset
    let end = open.offset + open.length
    var previous: UInt64?
    for i in 0..<count {
      let d = descriptors[i]
      if d.length == 0 || d.length > end - at || d.flags & ~3 != 0 {
        throw Failure("Block status: \(d) at \(at) in a range that ends at \(end).")
      }
      if previous == d.flags { throw Failure("Block status: equal neighbours at \(at).") }
      previous = d.flags
      if d.flags & (StatusDescriptor.zero | StatusDescriptor.hole) != 0 {
        let last = layout.firstCell(from: at + d.length)
        let upper = last > 0 && layout.end(before: last) > at + d.length ? last - 1 : last
        let lower = layout.firstCell(from: at)
        if lower < upper {
          try reference.checkZero(cells: lower..<upper, issued: open.mark)
        }
      }
      at += d.length
    }
    // One answer walks at least 16,384 blocks.
    let isShort = at < end && at - open.offset < (64 << 20) - (1 << 16)
    if isShort && count < Int(open.capacity) && !open.flags.contains(.oneDescriptor) {
      throw Failure("Block status ended at \(at), before \(end), with room for more.")
    }
  }

  // MARK: Observation

  /// Reads the whole volume after a recovery: the reference learns what there is.
  func observeAll() throws(Failure) {
    trace.record(.act, "observation begins")
    toObserve.removeAll()
    retries = 0
    var start = 0
    let most = max(1, scenario.maxTransfer >> 12)
    while start < layout.blocks {
      var end = min(layout.blocks, start + random.within(1...most))
      if layout.spread > 1 { end = min(end, (start | 15) + 1) }
      toObserve.append(start..<end)
      start = end
    }
    try settle("the observation", until: {
      while clients.hasRoom && engine.pointee.canAccept, let range = toObserve.popLast() {
        submit(clients.observe(blocks: range, reference))
      }
      return toObserve.isEmpty && clients.openCount == 0
    })
    reference.endObservation()
    trace.record(.act, "observed")
  }

  /// An observation failed: its blocks are read one by one, and again while errors may be
  /// transient.
  private func observeAgain(_ open: OpenRequest) throws(Failure) {
    let blocks =
      open.cells.lowerBound / layout.perBlock..<open.cells.upperBound / layout.perBlock
    if blocks.count > 1 {
      for block in blocks { toObserve.append(block..<block + 1) }
      return
    }
    if scenario.faults.losesNothing {
      retries += 1
      if retries > 2000 || devices.faults.isEmpty {
        throw Failure("Block \(blocks.lowerBound) cannot be read, and nothing was damaged.")
      }
      if retries > 1000 { devices.heal() }
      // A page that could not be read is not asked for again within a second.
      if retries % 200 == 0 { now = now + Milliseconds(1100) }
      toObserve.append(blocks)
      return
    }
    count(\.unreadable)
    reference.cannotObserve(cells: open.cells)
  }

  static func label(_ kind: RequestKind) -> StaticString {
    switch kind {
    case .read: "read"
    case .write: "write"
    case .flush: "flush"
    case .trim: "trim"
    case .writeZeroes: "writeZeroes"
    case .cache: "cache"
    case .blockStatus: "blockStatus"
    }
  }
}
