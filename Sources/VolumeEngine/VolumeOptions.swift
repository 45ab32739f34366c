package import Base

/// What the opener of a volume decides.
package struct VolumeOptions: Sendable {
  /// This boot of the machine (`/proc/sys/kernel/random/boot_id`).
  package var bootID: Identity
  /// Go on although this boot's staging ring is gone: acknowledged writes are lost.
  package var acceptLostRing = false
  /// Write whole extents straight to their slots.
  package var placedWrites = false
  /// Bytes of the shortest request whose whole extents are placed: shorter ones are answered
  /// sooner by the log.
  package var placedLeast: UInt64 = 256 << 10
  /// How the memory of the configuration is cut up.
  package var memory: MemoryPlan
  /// A rule to break, for the test of the tests; nil in production.
  package var planted: PlantedBug? = nil
  /// Bytes that the volume has from this opening on, when it has fewer: it only grows.
  package var volumeSize: UInt64 = 0

  package init(bootID: Identity, memory: MemoryPlan) {
    self.bootID = bootID
    self.memory = memory
  }
}

/// Why a volume cannot be opened.
package enum OpenErrorKind: Sendable, Equatable {
  /// Neither superblock copy is valid.
  case superblock
  /// A device could not be read or written.
  case device
  /// A device is not the one that the pool expects in its place.
  case wrongDevice
  /// This boot's staging ring is gone, with acknowledged writes.
  case lostRing
  /// The log is damaged where it must be whole.
  case damagedLog
  /// The staging ring is damaged or does not fit.
  case damagedRing
  /// The log holds more than the index takes.
  case memory
}

/// A volume cannot be opened; `message` says why and what to do.
package struct OpenError: Error, Sendable {
  package let kind: OpenErrorKind
  package let message: String

  init(_ kind: OpenErrorKind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  init(_ error: SyncError) {
    self.init(.device, error.text)
  }
}
