import Base
import Glibc
import Logging
import RingIO
import VolumeEngine

/// Staging rings for the engine, in a `StagingDirectory`; what goes wrong with them is logged.
final class RingStore: StagingStore {
  private let directory: StagingDirectory?
  private let logger: Logger
  private var mapped: [UnsafeMutableRawBufferPointer] = []
  /// The ring made last: the one in use once the engine is open. Nil without a usable directory.
  private(set) var current: UnsafeMutableRawBufferPointer?

  /// Without a directory there are no rings.
  init(_ directory: StagingDirectory?, logger: Logger) {
    self.directory = directory
    self.logger = logger
  }

  deinit {
    for memory in mapped { directory?.unmap(memory) }
  }

  func open(pool: Identity, ring: UInt64) -> UnsafeMutableRawBufferPointer? {
    do {
      let memory = try directory?.open(pool: pool, ring: ring)
      if let memory { mapped.append(memory) }
      return memory
    } catch {
      logger.error("the staging ring cannot be opened: \(error)")
      return nil
    }
  }

  func create(pool: Identity, ring: UInt64, size: Int) -> UnsafeMutableRawBufferPointer? {
    guard let directory else { return nil }
    do {
      let memory = try directory.create(pool: pool, ring: ring, size: size)
      mapped.append(memory)
      current = memory
      return memory
    } catch {
      logger.error("no staging ring can be made: \(error)")
      return nil
    }
  }

  func remove(pool: Identity, ring: UInt64) { directory?.remove(pool: pool, ring: ring) }

  /// Unmaps the rings of earlier lives, so that their memory is free again. Called when the engine
  /// is open: it has taken over everything they held.
  func forgetOldRings() {
    for memory in mapped where memory.baseAddress != current?.baseAddress {
      directory?.unmap(memory)
    }
    mapped = current.map { [$0] } ?? []
  }
}
