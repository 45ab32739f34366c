import Base

/// The order of writes, trims and zeroings that touch the same blocks: that in which they came.
///
/// Most are queued for staging as they come, and the queue keeps the order (Q1). One that first
/// places its extents, or reads what it covers in part, is remembered here until it is queued; what
/// comes meanwhile and touches a block of its waits behind it. A client that has given up on a
/// connection, and goes on over another, so never finds an older write of its own over a newer one.
///
/// - Q4: of two requests that touch a block the one that came first is staged first, or fails.
/// - Q5: who has to leave the queue's head comes back to its head, and nobody is staged meanwhile.
struct Arrivals: ~Copyable {
  /// In the order of arrival.
  private let list: UnsafeMutablePointer<Int32>
  private(set) var count = 0
  /// The request that has left the queue's head to read something, or -1.
  var absent: Int32 = -1

  init(in arena: inout Arena) { list = arena.takeArray(of: Int32.self, count: Pools.requests) }

  static var bytes: Int { Arena.cost(Pools.requests * 4) }

  subscript(i: Int) -> Int { Int(list[i]) }

  mutating func append(_ r: Int) {
    list[count] = Int32(r)
    count += 1
  }

  /// Takes a request out; returns where it stood.
  mutating func remove(_ r: Int) -> Int {
    var place = 0
    while Int(list[place]) != r { place += 1 }
    count -= 1
    for i in place..<count { list[i] = list[i + 1] }
    return place
  }
}

extension Volume {
  /// Begins a write, a trim or a zeroing, or lets it wait behind those that came before.
  mutating func arrive(_ r: Int) {
    if !planted(.overlapsUnordered), isBehind(r, arrivals.count) {
      requests[r].state = .behind
    } else {
      begin(r)
    }
    switch requests[r].state {
    case .behind, .placing, .reading:
      guard arrivals.absent != Int32(r) else { return }
      requests[r].isArriving = true
      arrivals.append(r)
    case .free, .queued, .flushing, .walking: break
    }
  }

  /// Nobody before it is in its way any more.
  mutating func begin(_ r: Int) {
    if requests[r].request.kind == .write { beginWrite(r) } else { beginZero(r) }
  }

  /// Whether one of the first `count` arrivals touches a block of the request.
  private func isBehind(_ r: Int, _ count: Int) -> Bool {
    var i = 0
    while i < count {
      if touch(arrivals[i], r) { return true }
      i += 1
    }
    return false
  }

  private func touch(_ a: Int, _ b: Int) -> Bool {
    let (a, b) = (requests[a].request, requests[b].request)
    guard a.length > 0, b.length > 0 else { return false }
    return a.offset >> 12 <= (b.offset + b.length - 1) >> 12
      && b.offset >> 12 <= (a.offset + a.length - 1) >> 12
  }

  /// The request is queued, or has ended: those behind it may go on.
  mutating func depart(_ r: Int) {
    guard requests[r].isArriving else { return }
    requests[r].isArriving = false
    var i = arrivals.remove(r)
    while i < arrivals.count {
      let other = arrivals[i]
      let waiter = Waiter(rawValue: Int32(other))
      if requests[other].state == .behind, !waiters.isWaiting(waiter), touch(r, other),
        !isBehind(other, i)
      {
        waiters.makeReady(waiter)
      }
      i += 1
    }
  }
}
