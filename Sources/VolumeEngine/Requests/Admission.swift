import Base

/// Back-pressure: writes are slowed smoothly as the log fills, before they would have to stop.
///
/// Free below half; then the admitted rate falls from eight times to once the destage rate at
/// 90 %, to half of it at 98 %, where writes wait.
struct Admission {
  private var tokens = Int.max
  private var last = Instant(nanoseconds: 0)
  private(set) var isLimited = false

  mutating func renew(now: Instant, fullness: Int, destageRate: Int) {
    let elapsed = now.since(last)
    last = now
    isLimited = fullness >= 500
    guard isLimited else {
      tokens = Int.max
      return
    }
    if tokens == Int.max { tokens = 1 << 20 }
    guard fullness < 980 else {
      tokens = min(tokens, 0)
      return
    }
    let rate = max(destageRate, 8 << 20)
    let percent = fullness < 900 ? 100 + (900 - fullness) * 700 / 400 : 100 - (fullness - 900) / 2
    let perSecond = rate / 100 * percent
    let earned = min(elapsed, 1_000_000_000) / 1000 * UInt64(perSecond) / 1_000_000
    tokens = min(tokens + Int(earned), max(2 << 20, perSecond / 50))
  }

  /// Whether a write may go on; one that is larger than the balance goes into debt.
  func allows(_ bytes: Int) -> Bool { tokens > 0 }

  mutating func spend(_ bytes: Int) {
    if tokens != Int.max { tokens -= bytes }
  }
}
