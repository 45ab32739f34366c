import Glibc

/// Several connections, each with many requests in flight, judged by one oracle.
///
/// The region that is used consists of pieces of 1 MiB spread evenly over the volume, so that it
/// touches many pages of the map; a request never crosses a piece.
final class Load {
  struct Shape {
    var connections = 8
    var depth = 64
    /// Sectors of the largest request.
    var largest = 256
    /// Reads, out of 100.
    var readPercent = 40
  }

  static let pieceSectors = 2048
  let oracle: Oracle
  private let uri: String
  private let shape: Shape
  private var connections: [Connection] = []
  private var random: UInt64
  private(set) var operations = 0
  private(set) var acknowledgedWrites = 0
  private var spacing: UInt64 = 0

  /// `bytes`: of the region that is used, a multiple of 1 MiB.
  init(uri: String, seed: UInt64, bytes: Int, shape: Shape) {
    self.uri = uri
    self.shape = shape
    oracle = Oracle(seed: seed | 1, sectors: bytes / Pattern.sectorBytes)
    random = seed &* 0x9e37_79b9_7f4a_7c15 | 1
  }

  // MARK: Connections

  /// Connects them all; tries again for `patience` seconds while the server is not there.
  func connect(patience: Double, isServerAlive: () -> Bool = { true }) throws(LoadError) {
    let deadline = Clock.seconds() + patience
    while connections.count < shape.connections {
      do throws(LoadError) {
        connections.append(
          try Connection(
            uri: uri, depth: shape.depth, bytes: shape.largest * Pattern.sectorBytes))
      } catch {
        if Clock.seconds() > deadline || !isServerAlive() { throw error }
        usleep(2000)
      }
    }
    let pieces = UInt64(oracle.sectors / Self.pieceSectors)
    spacing = UInt64(connections[0].size) / pieces / 4096 * 4096
    guard spacing >= 1 << 20 else { throw LoadError("the volume is smaller than the region") }
  }

  /// Drops all connections; what was in flight happened or not.
  func disconnect() {
    for connection in connections {
      for slot in connection.slots where slot.isBusy { settle(slot, isServerDead: true) }
    }
    connections = []
  }

  func close() {
    for connection in connections { connection.disconnect() }
    connections = []
  }

  private func offset(_ sector: Int) -> UInt64 {
    UInt64(sector / Self.pieceSectors) * spacing
      + UInt64(sector % Self.pieceSectors * Pattern.sectorBytes)
  }

  // MARK: Running

  /// Loads the server for `seconds`; `during` is called every few milliseconds and ends it early
  /// by returning false. Ends with everything answered, or with the connections dropped when the
  /// server is gone.
  func run(seconds: Double, during: () -> Bool = { true }) {
    let end = Clock.seconds() + seconds
    var isIssuing = true
    while isIssuing || inFlight > 0 {
      if isIssuing && (Clock.seconds() >= end || !during()) { isIssuing = false }
      for connection in connections {
        if !connection.isAlive { return disconnect() }
        if isIssuing { issue(on: connection) }
      }
      turn()
    }
  }

  /// Reads the whole region once and pins what is found; false when the server is gone.
  func verify() -> Bool {
    var next = 0
    while next < oracle.sectors || inFlight > 0 {
      for connection in connections {
        if !connection.isAlive {
          disconnect()
          return false
        }
        for slot in connection.slots where !slot.isBusy && next < oracle.sectors {
          slot.kind = .read
          let left = Self.pieceSectors - next % Self.pieceSectors
          slot.range = next..<next + min(shape.largest, left)
          next = slot.range.upperBound
          oracle.beginRead(slot.range, floors: slot.floors)
          _ = connection.send(slot, offset: offset(slot.range.lowerBound))
        }
      }
      turn(pin: true)
    }
    return true
  }

  private var inFlight: Int {
    connections.reduce(0) { $0 + $1.slots.count { $0.isBusy } }
  }

  private func turn(pin: Bool = false) {
    var descriptors = connections.map {
      pollfd(fd: $0.descriptor, events: $0.events, revents: 0)
    }
    guard poll(&descriptors, nfds_t(descriptors.count), 5) >= 0 else { return }
    for (connection, polled) in zip(connections, descriptors) {
      if polled.revents != 0 { connection.notify(polled.revents) }
      for slot in connection.slots where slot.isBusy && slot.isDone {
        settle(slot, isServerDead: !connection.isAlive, pin: pin)
      }
    }
  }

  private func settle(_ slot: Slot, isServerDead: Bool, pin: Bool = false) {
    slot.isBusy = false
    let isGood = slot.isDone && slot.error == 0
    operations += 1
    if !isGood && !isServerDead && slot.error != ENOTCONN && slot.error != ESHUTDOWN {
      oracle.complain("\(slot.kind) of sectors \(slot.range): error \(slot.error)")
    }
    switch slot.kind {
    case .flush: break
    case .read:
      if isGood { oracle.finishRead(slot.range, slot.buffer, floors: slot.floors, pin: pin) }
    case .write, .zero, .trim:
      if isGood {
        oracle.acknowledge(slot.range)
        acknowledgedWrites += 1
      } else {
        oracle.leaveOpen(slot.range)
      }
    }
  }

  // MARK: Choosing

  private func issue(on connection: Connection) {
    for slot in connection.slots where !slot.isBusy {
      choose(slot, connection)
      switch slot.kind {
      case .read: oracle.beginRead(slot.range, floors: slot.floors)
      case .flush: slot.range = 0..<0
      case .write, .zero, .trim:
        guard oracle.isFree(slot.range) else { continue }
        if slot.kind == .write {
          oracle.beginWrite(slot.range, into: slot.buffer)
        } else {
          oracle.beginZeroing(slot.range)
        }
      }
      let durable: UInt32 = slot.kind == .write && draw(50) == 0 && connection.canFlush ? 1 : 0
      _ = connection.send(
        slot, offset: slot.kind == .flush ? 0 : offset(slot.range.lowerBound), flags: durable)
    }
  }

  private func choose(_ slot: Slot, _ connection: Connection) {
    let roll = draw(1000)
    if roll < 5 && connection.canFlush {
      slot.kind = .flush
    } else if roll < 5 + shape.readPercent * 10 {
      slot.kind = .read
    } else if roll >= 990 && connection.canTrim {
      slot.kind = .trim
    } else if roll >= 975 && connection.canZero {
      slot.kind = .zero
    } else {
      slot.kind = .write
    }
    // Half of all requests go to an eighth of the pieces.
    let pieces = oracle.sectors / Self.pieceSectors
    let piece = draw(2) == 0 ? draw(max(1, pieces / 8)) : draw(pieces)
    let size = draw(100)
    var count: Int
    var start: Int
    if size < 15 && slot.kind != .trim {
      count = 1 + draw(16)
      start = draw(Self.pieceSectors - count + 1)
    } else {
      count = size < 75 ? 8 : 8 * (1 + draw(shape.largest / 8))
      start = 8 * draw((Self.pieceSectors - count) / 8 + 1)
    }
    start += piece * Self.pieceSectors
    slot.range = start..<start + count
  }

  func draw(_ bound: Int) -> Int {
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    return Int(random >> 11) % bound
  }
}

enum Clock {
  static func seconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
  }
}
