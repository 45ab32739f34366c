package import Base
import Glibc

/// What the policy goes by. The defaults are the measured ones; tests use smaller times.
package struct RebalancerSettings: Sendable {
  /// Bytes of the volume.
  package var volumeSize: UInt64
  /// Bytes for the heat map, 4 a granule; granules double in size until it fits.
  package var heatBytes: Int
  /// An access begins a visit when there was none for this long.
  package var visitGap = Milliseconds(10_000)
  /// A visit counts half after this long.
  package var halfLife = Milliseconds(3 * 86_400_000)
  /// A request, or a run of requests one after the other, of this many bytes is a stream.
  package var streamBytes = 1 << 20
  /// The heat from which an extent may rise: its second visit within a half-life.
  package var admissionHeat = 1.5
  /// A tier fuller than this sheds its coldest extents …
  package var highPercent = 90
  /// … until it is no fuller than this.
  package var lowPercent = 85
  /// What moved does not move back before.
  package var residency = Milliseconds(30 * 60_000)
  /// How much of a tier's capacity may be written by promotion in a day.
  package var driveWritesPerDay = 0.3
  /// The most that moves may use, in bytes a second.
  package var bytesPerSecond: UInt64 = 256 << 20

  package init(volumeSize: UInt64, heatBytes: Int) {
    self.volumeSize = volumeSize
    self.heatBytes = heatBytes
  }

  /// 1024 · log2 of `admissionHeat`.
  var admissionLevel: Int { Int(1024 * log2(admissionHeat)) }
}
