/// What a sector was when a read was sent.
struct Floor {
  /// Nothing older may be read.
  var low: UInt32
  /// The newest version that is zeros.
  var zeroed: UInt32
}

/// What every sector may hold: the memory that survives the server's death.
///
/// Versions of a sector grow by one with every write or zeroing of it; only one of these is in
/// flight for a sector at a time. What a read may find lies between two versions:
///
/// - `low`: acknowledged, or seen by a read: nothing older may ever be read again;
/// - `high`: the newest one sent.
///
/// After a death the two may differ for what was in flight: it happened or it did not. The first
/// read decides, and from then on both are what was read (*pinned*).
final class Oracle {
  let seed: UInt64
  let sectors: Int
  private let low: UnsafeMutablePointer<UInt32>
  private let high: UnsafeMutablePointer<UInt32>
  /// The newest version that is zeros; 0 is the volume before the first write.
  private let zeroed: UnsafeMutablePointer<UInt32>
  /// The newest version ever sent; never used again even if it did not happen.
  private let newest: UnsafeMutablePointer<UInt32>
  private let busy: UnsafeMutablePointer<Bool>
  private(set) var complaints: [String] = []
  private(set) var complaintCount = 0

  init(seed: UInt64, sectors: Int) {
    self.seed = seed
    self.sectors = sectors
    func make<T>(_ value: T) -> UnsafeMutablePointer<T> {
      let memory = UnsafeMutablePointer<T>.allocate(capacity: sectors)
      memory.initialize(repeating: value, count: sectors)
      return memory
    }
    low = make(0)
    high = make(0)
    zeroed = make(0)
    newest = make(0)
    busy = make(false)
  }

  // SAFETY: the five allocations are made in `init` and used by this object only.
  deinit {
    for memory in [low, high, zeroed, newest] { memory.deallocate() }
    busy.deallocate()
  }

  func complain(_ text: String) {
    complaintCount += 1
    if complaints.count < 20 { complaints.append(text) }
  }

  func isFree(_ range: Range<Int>) -> Bool { range.allSatisfy { !busy[$0] } }

  /// A write of `range` is about to be sent: fills `memory` with the new versions.
  func beginWrite(_ range: Range<Int>, into memory: UnsafeMutableRawPointer) {
    for sector in range {
      beginVersion(sector)
      Pattern.fill(
        memory + (sector - range.lowerBound) * Pattern.sectorBytes, seed: seed, sector: sector,
        version: newest[sector])
    }
  }

  /// A zeroing of `range` is about to be sent.
  func beginZeroing(_ range: Range<Int>) {
    for sector in range {
      beginVersion(sector)
      zeroed[sector] = newest[sector]
    }
  }

  private func beginVersion(_ sector: Int) {
    precondition(!busy[sector])
    busy[sector] = true
    newest[sector] += 1
    high[sector] = newest[sector]
  }

  /// The server acknowledged a write or zeroing.
  func acknowledge(_ range: Range<Int>) {
    for sector in range {
      busy[sector] = false
      low[sector] = high[sector]
    }
  }

  /// The server died, or refused: it happened or not.
  func leaveOpen(_ range: Range<Int>) {
    for sector in range { busy[sector] = false }
  }

  /// Notes what a read sent now must not be older than.
  func beginRead(_ range: Range<Int>, floors: UnsafeMutablePointer<Floor>) {
    for sector in range {
      floors[sector - range.lowerBound] = Floor(low: low[sector], zeroed: zeroed[sector])
    }
  }

  /// Judges what a read brought. `pin`: nothing is in flight, and what was read stays.
  func finishRead(
    _ range: Range<Int>, _ memory: UnsafeRawPointer, floors: UnsafeMutablePointer<Floor>,
    pin: Bool
  ) {
    for sector in range {
      let i = sector - range.lowerBound
      let found = Pattern.read(memory + i * Pattern.sectorBytes, seed: seed, sector: sector)
      let version: UInt32
      switch found {
      case .zeros:
        // Zeros do not tell which they are. Those of before the read, where they may be read, say
        // nothing of a zeroing that was sent since.
        version = floors[i].zeroed >= floors[i].low ? floors[i].zeroed : zeroed[sector]
      case .version(let v): version = v
      case .foreign(let text):
        complain("sector \(sector): \(text); \(allowed(sector, floors[i].low))")
        continue
      }
      guard version >= floors[i].low, version <= high[sector] else {
        complain("sector \(sector): read \(found); \(allowed(sector, floors[i].low))")
        continue
      }
      low[sector] = max(low[sector], version)
      if pin {
        low[sector] = version
        high[sector] = version
      }
    }
  }

  private func allowed(_ sector: Int, _ low: UInt32) -> String {
    "allowed are versions \(low) to \(high[sector]), zeros are version \(zeroed[sector])"
  }

  /// Sectors whose last write was neither acknowledged nor seen.
  var openCount: Int { (0..<sectors).count { low[$0] != high[$0] } }
}
