import Base
import Glibc

/// How many bytes may still rise into one tier: a day's allowance that fills up evenly. It starts
/// full, so that a young volume profits at once, and never holds more than a day's worth.
struct MoveBudget {
  private(set) var bytes = 0.0
  private var perDay = 0.0

  /// Lets `nanoseconds` pass for a tier of `capacity` bytes.
  mutating func refill(capacity: Double, drivesPerDay: Double, nanoseconds: UInt64) {
    let first = perDay == 0
    perDay = capacity * drivesPerDay
    let gained = perDay * Double(nanoseconds) / 86_400e9
    bytes = first ? perDay : min(perDay, bytes + gained)
  }

  /// Takes one extent's worth; false when there is not that much.
  mutating func take() -> Bool {
    guard bytes >= Double(Size.extent) else { return false }
    bytes -= Double(Size.extent)
    return true
  }

  /// Gives back what a move that was not carried out had taken.
  mutating func giveBack() { bytes = min(perDay, bytes + Double(Size.extent)) }
}

/// Whether what was moved up lately has served as much as it cost. Both sums halve every day, so
/// that after a bad time small trials begin again by themselves.
///
/// Both are device time, in bytes that could have been transferred meanwhile: a request costs a
/// slow device 32 KiB more than its bytes (an SSD; a rotating disk far more, so this errs towards
/// moving less), a move is one such request.
struct PayBack {
  private var moved = 0.0
  private var served = 0.0

  private static let perRequest = 32768.0

  mutating func noteMoved() { moved += Double(Size.extent) + Self.perRequest }
  mutating func noteServed(_ bytes: Int) { served += Double(bytes) + Self.perRequest }

  mutating func decay(nanoseconds: UInt64) {
    let factor = exp2(-Double(nanoseconds) / 86_400e9)
    moved *= factor
    served *= factor
  }

  /// True while moving pays; `trial` bytes are always allowed.
  func allows(trial: Double) -> Bool { moved <= trial || served >= moved }
}
