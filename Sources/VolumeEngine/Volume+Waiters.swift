import Base

/// Who can wait: a request, a job of the batch, the batch's sweep, the scan for moves. Each waits
/// for one thing at a time, in one list, linked through one array.
struct Waiter: Equatable {
  var rawValue: Int32
  static let none = Waiter(rawValue: -1)
}

/// A list of waiters: first and last; links lie in `WaiterLinks`.
struct WaiterList {
  var first: Int32 = -1
  var last: Int32 = -1
  var isEmpty: Bool { first < 0 }
}

/// The links of all waiters, and the list of those who may go on.
struct WaiterLinks: ~Copyable {
  private let next: UnsafeMutablePointer<Int32>
  private let waiting: UnsafeMutablePointer<Bool>
  var ready = WaiterList()

  init(count: Int, in arena: inout Arena) {
    next = arena.takeArray(of: Int32.self, count: count)
    waiting = arena.takeArray(of: Bool.self, count: count)
    for i in 0..<count {
      next[i] = -1
      waiting[i] = false
    }
  }

  static func bytes(count: Int) -> Int { Arena.cost(count * 4) + Arena.cost(count) }

  /// Whether a waiter is in some list.
  func isWaiting(_ w: Waiter) -> Bool { waiting[Int(w.rawValue)] }

  mutating func append(_ w: Waiter, to list: inout WaiterList) {
    invariant(!waiting[Int(w.rawValue)], "W1: a waiter is in one list only")
    waiting[Int(w.rawValue)] = true
    next[Int(w.rawValue)] = -1
    if list.last >= 0 { next[Int(list.last)] = w.rawValue } else { list.first = w.rawValue }
    list.last = w.rawValue
  }

  mutating func prepend(_ w: Waiter, to list: inout WaiterList) {
    invariant(!waiting[Int(w.rawValue)], "W1: a waiter is in one list only")
    waiting[Int(w.rawValue)] = true
    next[Int(w.rawValue)] = list.first
    if list.first < 0 { list.last = w.rawValue }
    list.first = w.rawValue
  }

  mutating func popFirst(_ list: inout WaiterList) -> Waiter? {
    guard list.first >= 0 else { return nil }
    let w = list.first
    list.first = next[Int(w)]
    if list.first < 0 { list.last = -1 }
    waiting[Int(w)] = false
    return Waiter(rawValue: w)
  }

  /// All of a list may go on.
  mutating func wakeAll(_ list: inout WaiterList) {
    guard list.first >= 0 else { return }
    if ready.last >= 0 { next[Int(ready.last)] = list.first } else { ready.first = list.first }
    ready.last = list.last
    list = WaiterList()
  }

  /// This one may go on.
  mutating func makeReady(_ w: Waiter) {
    invariant(!waiting[Int(w.rawValue)], "W1: a waiter is in one list only")
    waiting[Int(w.rawValue)] = true
    next[Int(w.rawValue)] = -1
    if ready.last >= 0 { next[Int(ready.last)] = w.rawValue } else { ready.first = w.rawValue }
    ready.last = w.rawValue
  }

  /// A list whose head alone is stored (a frame's): pushes in front.
  mutating func push(_ w: Waiter, onto head: inout Int32) {
    invariant(!waiting[Int(w.rawValue)], "W1: a waiter is in one list only")
    waiting[Int(w.rawValue)] = true
    next[Int(w.rawValue)] = head
    head = w.rawValue
  }

  /// All of such a list may go on.
  mutating func wakeAll(head: inout Int32) {
    while head >= 0 {
      let w = head
      head = next[Int(w)]
      waiting[Int(w)] = false
      makeReady(Waiter(rawValue: w))
    }
  }

  /// The next who may go on.
  mutating func popReady() -> Waiter? {
    guard ready.first >= 0 else { return nil }
    let w = ready.first
    ready.first = next[Int(w)]
    if ready.first < 0 { ready.last = -1 }
    waiting[Int(w)] = false
    return Waiter(rawValue: w)
  }
}
