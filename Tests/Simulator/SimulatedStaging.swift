import Base
import VolumeEngine

/// Staging rings in plain memory: they outlive a kill, not a power loss.
final class SimulatedStaging: StagingStore {
  /// False: there is no usable tmpfs, and writes are acknowledged after the append.
  var isUsable: Bool
  private struct Ring {
    var pool: Identity
    var id: UInt64
    var memory: UnsafeMutableRawBufferPointer
  }
  private var rings: [Ring] = []
  /// Memory of removed rings, still mapped in the process that used it.
  private var retired: [UnsafeMutableRawBufferPointer] = []

  init(isUsable: Bool) { self.isUsable = isUsable }

  deinit {
    losePower()
    endProcess()
  }

  func open(pool: Identity, ring: UInt64) -> UnsafeMutableRawBufferPointer? {
    rings.first { $0.pool == pool && $0.id == ring }?.memory
  }

  func create(
    pool: Identity, ring: UInt64, size: Int
  ) -> UnsafeMutableRawBufferPointer? {
    guard isUsable else { return nil }
    invariant(open(pool: pool, ring: ring) == nil, "S5: a ring's id is used once")
    invariant(rings.count < 2, "S6: never more than two rings at once")
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)
    memory.initializeMemory(as: UInt8.self, repeating: 0)
    rings.append(Ring(pool: pool, id: ring, memory: memory))
    return memory
  }

  func remove(pool: Identity, ring: UInt64) {
    guard let i = rings.firstIndex(where: { $0.pool == pool && $0.id == ring }) else { return }
    retired.append(rings.remove(at: i).memory)
  }

  /// Whether `pointer` lies in a ring's memory, so that devices may transfer it.
  func contains(_ pointer: UnsafeRawPointer, _ length: Int) -> Bool {
    func holds(_ memory: UnsafeMutableRawBufferPointer) -> Bool {
      guard let base = memory.baseAddress else { return false }
      return pointer >= UnsafeRawPointer(base)
        && pointer + length <= UnsafeRawPointer(base) + memory.count
    }
    return rings.contains { holds($0.memory) } || retired.contains { holds($0) }
  }

  /// The power goes: so do the rings. Their memory stays mapped until `endProcess`.
  func losePower() {
    for ring in rings { retired.append(ring.memory) }
    rings.removeAll()
  }

  /// No process uses removed rings any more.
  func endProcess() {
    for memory in retired { memory.deallocate() }
    retired.removeAll()
  }
}
