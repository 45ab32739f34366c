package import Base
import Glibc

/// The clock of the loop: read once a turn (81 ns), then passed on as a value.
package enum MonotonicClock {
  /// Nanoseconds of `CLOCK_MONOTONIC`; comparable between processes of one boot.
  package static func now() -> Instant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Instant(nanoseconds: UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec))
  }
}
