import Base
package import DeviceIO
import Glibc

/// Performs the engine's `DeviceOperation`s through a ring.
///
///     submit ─► [waiting, first in first out] ─► in flight ─► finish ─► DeviceCompletion
///                                                  ▲   │
///                                                  └───┘ short, EINTR, EAGAIN: the rest again
///
/// Each operation takes a slot of a fixed pool from `submit` to its completion; the slot keeps the
/// engine's token and how far the transfer got. A device has at most `limit` operations in the
/// kernel; what exceeds it waits here, in order.
///
/// Invariants (besides D1 to D4 of the seam):
/// - W1: a completion belongs to a slot in flight, of the same generation.
/// - W2: the caller submits only while there is room.
/// - W3: operations lie inside the device and are aligned to its logical block.
/// - W4: what is in flight in the kernel is at most `limit` a device.
package struct DeviceDriver: ~Copyable {
  private struct Slot {
    var operation: DeviceOperation
    var generation: UInt32
    /// Bytes transferred so far.
    var done: UInt32
    /// The next slot in the free list or in the device's queue, or -1.
    var next: Int32
    var resubmissions: UInt16
    var isInFlight: Bool
  }

  private struct Lane {
    var file: RingFile
    var size: UInt64
    var alignment: UInt64
    var inFlight: Int32
    var head: Int32
    var tail: Int32
  }

  /// After this many resubmissions without an end the operation fails with EIO.
  private static var patience: UInt16 { 1000 }

  private let slots: UnsafeMutablePointer<Slot>
  private let lanes: UnsafeMutablePointer<Lane>
  private let set: DeviceSet
  private let limit: Int32
  private var firstFree: Int32 = 0
  /// How many operations can be submitted now.
  package private(set) var room: Int
  /// Operations submitted and not yet completed.
  package private(set) var pending = 0
  /// Transfers that had to be continued or tried again, since the start.
  package private(set) var resubmissions: UInt64 = 0

  /// A driver for all devices of `set`, which it installs in `ring`; at most `capacity` operations
  /// are pending, and at most `limit` a device in the kernel.
  package init(
    _ set: DeviceSet, on ring: inout Ring, capacity: Int = 4096, limit: Int = 128
  ) {
    invariant(capacity > 0 && limit > 0, "W2: a driver has room")
    slots = .allocate(capacity: capacity)
    for i in 0..<capacity {
      let next = i + 1 < capacity ? Int32(i + 1) : -1
      slots[i] = Slot(
        operation: DeviceOperation(.flush, device: DeviceIndex(UInt8(0)), token: 0), generation: 0,
        done: 0, next: next, resubmissions: 0, isInFlight: false)
    }
    lanes = .allocate(capacity: max(1, set.count))
    for i in 0..<set.count {
      let geometry = set.geometry(of: DeviceIndex(i))
      lanes[i] = Lane(
        file: ring.install(set.descriptor(of: DeviceIndex(i))), size: geometry.size,
        alignment: UInt64(geometry.logicalBlock), inFlight: 0, head: -1, tail: -1)
    }
    self.set = set
    self.limit = Int32(limit)
    room = capacity
  }

  deinit {
    slots.deallocate()
    lanes.deallocate()
  }

  /// Takes the devices out of the ring's table; nothing is pending any more.
  package mutating func withdraw(from ring: inout Ring) {
    invariant(pending == 0, "W1: a driver is withdrawn only when nothing is pending")
    for i in 0..<set.count {
      ring.remove(lanes[i].file)
      lanes[i].file = RingFile(descriptor: lanes[i].file.descriptor)
    }
  }

  /// Takes an operation on; it reaches the kernel with the ring's next submission, or later when
  /// the device has its limit in flight.
  package mutating func submit(_ operation: DeviceOperation, on ring: inout Ring) {
    check(operation)
    invariant(room > 0, "W2: the driver is not overfilled")
    let index = firstFree
    let device = operation.device.index
    firstFree = slots[Int(index)].next
    room -= 1
    pending += 1
    slots[Int(index)].operation = operation
    slots[Int(index)].done = 0
    slots[Int(index)].resubmissions = 0
    slots[Int(index)].next = -1
    if lanes[device].inFlight < limit, lanes[device].head < 0 {
      start(index, on: &ring)
    } else if lanes[device].head < 0 {
      lanes[device].head = index
      lanes[device].tail = index
    } else {
      slots[Int(lanes[device].tail)].next = index
      lanes[device].tail = index
    }
  }

  /// Takes a completion whose tag is of kind `OperationTag.device`. The operation's own end, or
  /// nil when the rest of it was submitted again.
  package mutating func finish(
    _ completion: RingCompletion, on ring: inout Ring
  ) -> DeviceCompletion? {
    let index = Int32(bitPattern: completion.tag.slot)
    let slot = slots + Int(index)
    invariant(
      slot.pointee.isInFlight && slot.pointee.generation == completion.tag.generation,
      "W1: a completion belongs to an operation in flight")
    let device = slot.pointee.operation.device.index
    slot.pointee.isInFlight = false
    lanes[device].inFlight -= 1
    guard let result = settle(slot, completion.result, lanes[device].alignment) else {
      resubmissions += 1
      start(index, on: &ring)
      return nil
    }
    let done = DeviceCompletion(token: slot.pointee.operation.token, result: result)
    slot.pointee.generation = (slot.pointee.generation &+ 1) & 0xff_ffff
    slot.pointee.next = firstFree
    firstFree = index
    room += 1
    pending -= 1
    let waiting = lanes[device].head
    if waiting >= 0 {
      lanes[device].head = slots[Int(waiting)].next
      slots[Int(waiting)].next = -1
      start(waiting, on: &ring)
    }
    return done
  }

  /// The operation's result, or nil when there is more to do (D2).
  private func settle(
    _ slot: UnsafeMutablePointer<Slot>, _ result: Int32, _ alignment: UInt64
  ) -> Int32? {
    if result == -EINTR || result == -EAGAIN { return giveUp(slot) ? -EIO : nil }
    if result < 0 { return result }
    switch slot.pointee.operation.kind {
    case .flush, .discard: return Int32(clamping: slot.pointee.operation.length)
    case .read, .write, .writeThrough:
      let done = slot.pointee.done &+ UInt32(result)
      if done >= slot.pointee.operation.length { return Int32(slot.pointee.operation.length) }
      // Direct I/O goes on only from a whole block. No progress is the end of a file that has
      // become shorter: the device no longer has what it promised.
      let whole = done & ~UInt32(alignment - 1)
      if whole == slot.pointee.done || giveUp(slot) { return -EIO }
      slot.pointee.done = whole
      return nil
    }
  }

  private func giveUp(_ slot: UnsafeMutablePointer<Slot>) -> Bool {
    slot.pointee.resubmissions += 1
    return slot.pointee.resubmissions > DeviceDriver.patience
  }

  private mutating func start(_ index: Int32, on ring: inout Ring) {
    let slot = slots + Int(index)
    let operation = slot.pointee.operation
    let lane = lanes + operation.device.index
    let tag = OperationTag(
      kind: OperationTag.device, slot: UInt32(bitPattern: index),
      generation: slot.pointee.generation)
    slot.pointee.isInFlight = true
    lane.pointee.inFlight += 1
    invariant(lane.pointee.inFlight <= limit, "W4: a device's limit holds")
    let file = lane.pointee.file
    let done = Int(slot.pointee.done)
    let count = Int(operation.length) - done
    let offset = operation.offset + UInt64(done)
    switch operation.kind {
    case .flush: ring.flush(file, tag)
    case .discard: ring.punchHole(file, at: offset, count, tag)
    case .read:
      ring.read(file, operation.memory.unsafelyUnwrapped + done, count, at: offset, tag)
    case .write:
      ring.write(file, operation.memory.unsafelyUnwrapped + done, count, at: offset, tag)
    case .writeThrough:
      ring.write(
        file, operation.memory.unsafelyUnwrapped + done, count, at: offset, durable: true, tag)
    }
  }

  private func check(_ operation: DeviceOperation) {
    invariant(operation.device.index < set.count, "W3: the device exists")
    if operation.kind == .flush { return }
    let lane = lanes + operation.device.index
    let length = UInt64(operation.length)
    invariant(
      length > 0 && operation.offset <= lane.pointee.size
        && length <= lane.pointee.size - operation.offset,
      "W3: an operation lies inside its device")
    let mask = lane.pointee.alignment - 1
    invariant((operation.offset | length) & mask == 0, "W3: offset and length are aligned (D4)")
    if operation.kind == .discard { return }
    invariant(
      operation.memory != nil && length <= 1 << 30
        && UInt64(UInt(bitPattern: operation.memory)) & mask == 0, "W3: memory is aligned (D4)")
  }
}
