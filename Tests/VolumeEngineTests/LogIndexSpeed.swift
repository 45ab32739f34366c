import Base
import Testing
import VolumeEngine

/// Prints what inserting and finding cost, in a release build; judges nothing.
///
/// One generation of 2^20 cells, filled to half and to three quarters by runs of 1, 4 and 16
/// blocks at random places of a 4 TiB volume.
@Suite(.serialized) struct LogIndexSpeed {
  /// Nanoseconds for one of `count`.
  private func time(_ count: Int, _ body: () -> Void) -> Double {
    let elapsed = ContinuousClock().measure(body).components
    return (Double(elapsed.attoseconds) / 1e9 + Double(elapsed.seconds) * 1e9) / Double(count)
  }

  #if !DEBUG
    @Test(arguments: [1, 4, 16]) func costs(run: Int) {
      let cells = 1 << 20
      let bytes = LogIndex.bytes(cellCapacity: cells, extentCapacity: 1024)
      withArena(bytes) { arena in
        var index = LogIndex(cellCapacity: cells, extentCapacity: 1024, in: &arena)
        report(&index, run: run, blocks: cells / 2, name: "half full")
        report(&index, run: run, blocks: cells / 4 * 3, name: "three quarters full")
      }
    }
  #endif

  private func report(_ index: inout LogIndex, run: Int, blocks: Int, name: String) {
    var random = Random(seed: 1)
    let runs = blocks / run
    let starts = (0..<runs).map { _ in random.next(below: 1 << 30 - 16) & ~(run - 1) }
    let misses = (0..<runs).map { _ in random.next(below: 1 << 30 - 16) & ~(run - 1) }
    index.begin(at: LogPosition(0))
    _ = index.insert(BlockIndex(0), LogCell(kind: .zero, position: LogPosition(0), crc: 0))
    let empty = time(1) { index.begin(at: LogPosition(0)) }
    let insert = time(runs * run) { insertRuns(&index, starts, run) }
    var found = 0
    let hit = time(runs * run) { found = findRuns(index, starts, run) }
    #expect(found == runs * run)
    let miss = time(runs * run) { found = findRuns(index, misses, run) }
    #expect(found < runs * run / 100)
    print(
      "log index, runs of \(run), \(name):",
      "insert \(rounded(insert)) ns, hit \(rounded(hit)) ns, miss \(rounded(miss)) ns,",
      "emptying \(rounded(empty / 1000)) us")
  }

  @inline(never)
  private func insertRuns(_ index: inout LogIndex, _ starts: [Int], _ run: Int) {
    for start in starts {
      for i in start..<start + run {
        let cell = LogCell(kind: .payload, position: LogPosition(UInt64(i)), crc: 1)
        _ = index.insert(BlockIndex(UInt64(i)), cell)
      }
    }
  }

  @inline(never)
  private func findRuns(_ index: borrowing LogIndex, _ starts: [Int], _ run: Int) -> Int {
    var found = 0
    for start in starts {
      for i in start..<start + run where index.find(BlockIndex(UInt64(i))) != nil {
        found += 1
      }
    }
    return found
  }

  private func rounded(_ value: Double) -> Double { (value * 10).rounded() / 10 }
}
