import Base

extension Reference {
  /// The process or the machine died: requests that were open may have happened or not.
  /// Where a power loss follows a kill before a recovery ended, call it for each.
  func crash(_ crash: Crash) {
    let now = tick()
    for index in versions.indices.reversed() where versions[index].isOpen {
      versions[index].end = now
    }
    closeReads()
    for cell in heads.indices {
      if isRelaxed || crash == .power && isCut[cell] { isWild[cell] = true }
      if crash == .power && nodes[Int(heads[cell])].next != 0 {
        let secured = securedIssue(cell)
        filter(cell) { versions[Int($0.version)].end >= secured }
      }
      revive(cell, crash)
    }
    foundStaged = 0
    foundVersion = 0
    missingEnd = .max
    missingVersion = 0
  }

  /// Makes candidates of what the crash may bring back. What a kill does not bring back stays in
  /// the list: until a recovery has ended well, a power loss may follow.
  private func revive(_ cell: Int, _ crash: Crash) {
    var at = heads[cell]
    while at != 0 {
      if crash == .power { nodes[Int(at)].isHard = false }
      nodes[Int(at)].dropped = nodes[Int(at)].isHard ? 0 : .max
      at = nodes[Int(at)].next
    }
  }

  /// The first read of cells after a recovery: O5, O6, O7. Nothing else is in flight.
  func observe(
    cells: Range<Int>, issued: UInt32, memory: UnsafeRawPointer
  ) throws(Failure) {
    try checkRead(cells: cells, issued: issued, memory: memory)
    let start = layout.offset(cells.lowerBound)
    for cell in cells {
      let wasCut = isCut[cell]
      isCut[cell] = false
      if nodes[Int(heads[cell])].next == 0 { continue }
      let bytes = memory + Int(layout.offset(cell) - start)
      // Zeros may be those that the list has let go of.
      if !wasCut || !Content.isZero(bytes, layout.length(cell)) { try narrow(cell, bytes) }
      filter(cell) { $0.dropped > issued && holds(bytes, cell, $0.version) }
      settle(cell)
    }
  }

  /// Narrows the cut by what a cell shows. Where several zeroings would explain zeros, the cell
  /// is left out.
  private func narrow(_ cell: Int, _ bytes: UnsafeRawPointer) throws(Failure) {
    if isRelaxed { return }
    var found: UInt32?
    var at = heads[cell]
    while at != 0 {
      let version = nodes[Int(at)].version
      if holds(bytes, cell, version) {
        if found != nil { return }
        found = version
      }
      at = nodes[Int(at)].next
    }
    guard let found else { return }
    let v = versions[Int(found)]
    if v.earliest > foundStaged {
      foundStaged = v.earliest
      foundVersion = found
      foundCell = cell
    }
    at = heads[cell]
    while at != 0 {
      let other = nodes[Int(at)].version
      let w = versions[Int(other)]
      if w.isDone && w.issue > v.end && w.end < missingEnd {
        missingEnd = w.end
        missingVersion = other
        missingCell = cell
      }
      at = nodes[Int(at)].next
    }
    if missingEnd < foundStaged {
      throw Failure(
        "After the crash version \(missingVersion), answered at \(missingEnd), is missing, but "
          + "version \(foundVersion), staged at \(foundStaged), is there: the volume is no "
          + "prefix of the acknowledged order. Seen at bytes "
          + "\(layout.offset(missingCell)) and \(layout.offset(foundCell)).")
    }
  }

  /// What is left of a cell's list is what the cell holds: nothing brings the others back.
  private func settle(_ cell: Int) {
    // Of several zeroings any one stands for all: they look the same for ever.
    var first = true
    filter(cell) { _ in
      defer { first = false }
      return first
    }
  }

  /// Cells cannot be read after a recovery: should they ever be again, nobody knows what they hold.
  func cannotObserve(cells: Range<Int>) {
    for cell in cells {
      isWild[cell] = true
      isCut[cell] = true
    }
  }

  /// The whole volume was observed (but for cells that could not be read): all of it is durable.
  func endObservation() {
    floor = max(floor, tick())
    // What was found missing is settled: a later clean start is judged anew.
    foundStaged = 0
    foundVersion = 0
    missingEnd = .max
    missingVersion = 0
  }
}
