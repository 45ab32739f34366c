import Base

/// The reference volume: which values each cell may hold, given what was asked, answered, read
/// and lost so far.
///
/// Each cell has a short list of candidates: the versions (writes, zeroings) that a read may
/// return. Time is a counter of events. A version has two times, `issue` (its request went in)
/// and `end` (its reply came out); its place in the acknowledged order lies between the two.
///
/// - O1: a read may return any candidate that was not dropped when the read was issued.
/// - O2: the reply to a write drops all candidates that were issued before it: what touches the
///   same blocks takes effect in the order in which it came.
/// - O3: a read that returns x drops the others that had ended before the read was issued: no
///   later read may go back to them.
/// - O4: a kill brings back nothing that an acknowledged write dropped (C1).
/// - O5: a power loss brings back what no *secured* write follows. Secured is what was answered
///   before a FLUSH was issued that was answered, a FUA write that was answered, and all that
///   were answered before that write was issued (C2, C3).
/// - O6: after a power loss there is one cut through the acknowledged order that explains all
///   cells at once (C3): no version that is there was staged after one that is missing ended.
/// - O7: what was read after a recovery is the only candidate: crashes cannot change it (C4).
final class Reference {
  struct Version {
    var issue: UInt32
    /// `UInt32.max` while the request is open.
    var end: UInt32 = .max
    var cells: Range<Int>
    var isZero: Bool
    var isDurable: Bool
    /// One log entry, staged when the reply was made: its place in the acknowledged order is `end`.
    var isPoint: Bool
    /// Acknowledged with success; one that failed may have happened or not.
    var isDone = false
    var isOpen: Bool { end == .max }
    /// No entry of it was staged before.
    var earliest: UInt32 { isPoint && isDone ? end : issue }
  }

  struct Node {
    var version: UInt32
    /// When it was dropped; `UInt32.max` for a candidate.
    var dropped: UInt32
    /// Dropped by something acknowledged: a kill does not bring it back.
    var isHard: Bool
    var next: UInt32
  }

  let layout: CellLayout
  let content: Content
  @exclusivity(unchecked) var versions: [Version]
  @exclusivity(unchecked) var nodes: [Node]
  @exclusivity(unchecked) private var freeNode: UInt32 = 0
  @exclusivity(unchecked) var heads: [UInt32]
  @exclusivity(unchecked) private(set) var time: UInt32 = 1
  /// All that ended before this time is secured.
  @exclusivity(unchecked) var floor: UInt32 = 0
  /// A hostile device may take acknowledged tails away: what a crash leaves may be any version
  /// that ever was in its place, but nothing else.
  var isRelaxed = false
  /// Cells whose list does not say all that a crash may have brought back, until they are read or
  /// written: every version that ever was there is taken.
  @exclusivity(unchecked) var isWild: [Bool]
  /// Cells whose list lost its far end for length.
  @exclusivity(unchecked) var isCut: [Bool]
  private var openReads: [UInt32] = []
  /// The cut after a power loss: above every version found, below every version missing.
  var foundStaged: UInt32 = 0
  var foundVersion: UInt32 = 0
  var missingEnd: UInt32 = .max
  var missingVersion: UInt32 = 0
  var missingCell = 0
  var foundCell = 0

  init(layout: CellLayout, content: Content) {
    self.layout = layout
    self.content = content
    var first = Version(
      issue: 0, cells: 0..<layout.count, isZero: true, isDurable: true, isPoint: false)
    first.end = 0
    first.isDone = true
    versions = [first]
    isWild = Array(repeating: false, count: layout.count)
    isCut = isWild
    nodes = [Node(version: 0, dropped: 0, isHard: true, next: 0)]
    nodes.reserveCapacity(layout.count * 2 + 1)
    heads = []
    heads.reserveCapacity(layout.count)
    for cell in 0..<layout.count {
      nodes.append(Node(version: 0, dropped: .max, isHard: false, next: 0))
      heads.append(UInt32(cell + 1))
    }
  }

  /// The next moment.
  func tick() -> UInt32 {
    time += 1
    return time
  }

  // MARK: Writes

  /// A write, trim or zeroing of whole cells goes in; returns its version. `isPoint`: see there.
  func beginWrite(
    cells: Range<Int>, isZero: Bool, isDurable: Bool, isPoint: Bool = false
  ) -> UInt32 {
    let version = UInt32(versions.count)
    versions.append(
      Version(
        issue: tick(), cells: cells, isZero: isZero, isDurable: isDurable, isPoint: isPoint))
    for cell in cells { push(version, to: cell) }
    return version
  }

  /// Its reply comes out. One that failed may have had any part of its effect.
  func endWrite(_ version: UInt32, succeeded: Bool) {
    let now = tick()
    let index = Int(version)
    versions[index].end = now
    versions[index].isDone = succeeded
    guard succeeded else { return }
    let issue = versions[index].issue
    if versions[index].isDurable { floor = max(floor, issue) }
    let oldest = openReads.min() ?? .max
    for cell in versions[index].cells {
      isWild[cell] = false
      var at = heads[cell]
      var settled = 0
      while at != 0 && settled < Reference.settledRun {
        let other = Int(nodes[Int(at)].version)
        settled = nodes[Int(at)].isHard ? settled + 1 : 0
        if versions[other].issue < issue {
          if nodes[Int(at)].dropped == .max { nodes[Int(at)].dropped = now }
          nodes[Int(at)].isHard = true
        }
        at = nodes[Int(at)].next
      }
      if at != 0 {
        cut(cell, behind: at, oldest)
      } else if settled > 0 {
        forget(cell, oldest)
      }
    }
  }

  /// Behind so many nodes in a row that are dropped for good, nobody looks any further: where
  /// nothing is ever flushed, lists would grow without end.
  private static let settledRun = 12

  /// Lets go of what lies behind a long run of settled nodes.
  private func cut(_ cell: Int, behind first: UInt32, _ oldest: UInt32) {
    var isBehind = false
    var at = first
    while at != 0 {
      let node = nodes[Int(at)]
      if !node.isHard || node.dropped >= oldest { return }
      at = node.next
    }
    filter(cell) { node in
      defer { if node.next == first { isBehind = true } }
      return !isBehind
    }
    isCut[cell] = true
  }

  private func push(_ version: UInt32, to cell: Int) {
    let node = Node(version: version, dropped: .max, isHard: false, next: heads[cell])
    if freeNode != 0 {
      let at = freeNode
      freeNode = nodes[Int(at)].next
      nodes[Int(at)] = node
      heads[cell] = at
    } else {
      heads[cell] = UInt32(nodes.count)
      nodes.append(node)
    }
  }

  /// Whether a power loss can no longer take the version away.
  func isSecured(_ version: Int) -> Bool {
    let v = versions[version]
    return v.isDone && (v.isDurable || v.end < floor)
  }

  /// When the latest secured version of a cell's list was issued: what ended before is gone for
  /// ever. 0 for none.
  func securedIssue(_ cell: Int) -> UInt32 {
    var latest: UInt32 = 0
    var at = heads[cell]
    while at != 0 {
      let version = Int(nodes[Int(at)].version)
      if versions[version].issue > latest && isSecured(version) {
        latest = versions[version].issue
      }
      at = nodes[Int(at)].next
    }
    return latest
  }

  /// Removes what neither a read in flight nor a power loss can ever show again.
  private func forget(_ cell: Int, _ oldest: UInt32) {
    let secured = securedIssue(cell)
    if secured == 0 { return }
    filter(cell) { $0.dropped >= oldest || versions[Int($0.version)].end >= secured }
  }

  /// Keeps the nodes of a cell for which `keep` says so.
  func filter(_ cell: Int, keep: (Node) -> Bool) {
    var removed: [UInt32] = []
    var at = heads[cell]
    while at != 0 {
      if !keep(nodes[Int(at)]) { removed.append(at) }
      at = nodes[Int(at)].next
    }
    if removed.isEmpty { return }
    var previous: UInt32 = 0
    var next = 0
    at = heads[cell]
    while at != 0 && next < removed.count {
      let following = nodes[Int(at)].next
      if removed[next] == at {
        next += 1
        if previous == 0 {
          heads[cell] = following
        } else {
          nodes[Int(previous)].next = following
        }
        nodes[Int(at)].next = freeNode
        freeNode = at
      } else {
        previous = at
      }
      at = following
    }
  }

  // MARK: Flushes

  /// A FLUSH goes in; returns its time.
  func beginFlush() -> UInt32 { tick() }

  /// It is answered with success: all that had ended before it is secured.
  func endFlush(issued: UInt32) { floor = max(floor, issued) }

  /// A clean shutdown secures everything.
  func endShutdown() { floor = max(floor, tick()) }

  // MARK: Reads

  /// A read goes in; returns its time.
  func beginRead() -> UInt32 {
    let now = tick()
    openReads.append(now)
    return now
  }

  /// A read ends without data.
  func endRead(issued: UInt32) {
    guard let i = openReads.firstIndex(of: issued) else { return }
    openReads.swapAt(i, openReads.count - 1)
    openReads.removeLast()
  }

  /// The process died: nobody reads any more.
  func closeReads() { openReads.removeAll() }

  /// A read of whole cells ended with the bytes at `memory`: O1, O3.
  func checkRead(
    cells: Range<Int>, issued: UInt32, memory: UnsafeRawPointer
  ) throws(Failure) {
    let now = tick()
    let start = layout.offset(cells.lowerBound)
    for cell in cells {
      let offset = layout.offset(cell)
      let bytes = memory + Int(offset - start)
      var (found, foundDone) = search(cell, bytes, issued, within: Reference.settledRun)
      if !found { (found, foundDone) = search(cell, bytes, issued, within: .max) }
      if !found && isWild[cell],
        let version = anyVersion(bytes, cell)
      {
        filter(cell) { _ in false }
        push(version, to: cell)
        found = true
      }
      isWild[cell] = false
      if !found { throw wrong(cell: cell, issued: issued, bytes: bytes) }
      drop(cell, bytes, issued, now, isHard: foundDone)
    }
    endRead(issued: issued)
  }

  /// Whether a candidate explains what was read, and whether all that do are acknowledged. Gives
  /// up behind `limit` nodes in a row that are none.
  private func search(
    _ cell: Int, _ bytes: UnsafeRawPointer, _ issued: UInt32, within limit: Int
  ) -> (found: Bool, isDone: Bool) {
    var found = false
    var isDone = true
    var others = 0
    var at = heads[cell]
    while at != 0 && others < limit {
      let node = nodes[Int(at)]
      others += 1
      if node.dropped > issued {
        others = 0
        if holds(bytes, cell, node.version) {
          found = true
          if !versions[Int(node.version)].isDone { isDone = false }
        }
      }
      at = node.next
    }
    return (found, isDone)
  }

  /// Drops the candidates that a read has ruled out: O3.
  private func drop(
    _ cell: Int, _ bytes: UnsafeRawPointer, _ issued: UInt32, _ now: UInt32, isHard: Bool
  ) {
    var at = heads[cell]
    if nodes[Int(at)].next == 0 { return }
    var others = 0
    while at != 0 && others < Reference.settledRun {
      let node = nodes[Int(at)]
      others = node.dropped == .max ? 0 : others + 1
      if node.dropped == .max && versions[Int(node.version)].end < issued
        && !holds(bytes, cell, node.version)
      {
        nodes[Int(at)].dropped = now
        nodes[Int(at)].isHard = isHard
      }
      at = node.next
    }
  }

  /// The version, of all that ever were written to a cell, that `bytes` hold.
  private func anyVersion(_ bytes: UnsafeRawPointer, _ cell: Int) -> UInt32? {
    if Content.isZero(bytes, layout.length(cell)) { return 0 }
    for index in versions.indices.reversed() where versions[index].cells.contains(cell) {
      if versions[index].isZero { continue }
      if holds(bytes, cell, UInt32(index)) { return UInt32(index) }
    }
    return nil
  }

  /// Whether `bytes` are a version's of a cell.
  func holds(_ bytes: UnsafeRawPointer, _ cell: Int, _ version: UInt32) -> Bool {
    let length = layout.length(cell)
    if versions[Int(version)].isZero { return Content.isZero(bytes, length) }
    return content.matches(
      bytes, offset: layout.offset(cell), length: length, version: version)
  }

  /// Block status said that cells read as zeros: some candidate must be.
  func checkZero(cells: Range<Int>, issued: UInt32) throws(Failure) {
    for cell in cells {
      var at = heads[cell]
      var found = false
      while at != 0 && !found {
        let node = nodes[Int(at)]
        found = node.dropped > issued && versions[Int(node.version)].isZero
        at = node.next
      }
      if !found {
        throw Failure(
          "Block status says zeros at \(place(cell)), where only data may be: "
            + describe(cell, issued: issued))
      }
    }
  }
}
