import Base
import Testing
import VolumeEngine

@Suite struct SlotSetTests {
  @Test func agreesWithSet() {
    withArena(SlotSet.bytes(capacity: 300)) { arena in
      var set = SlotSet(capacity: 300, in: &arena)
      var random = Random(seed: 5)
      for _ in 0..<20 {
        var model = Set<SlotAddress>()
        for _ in 0..<random.next(below: 300) + 1 {
          let slot = SlotAddress(
            device: DeviceIndex(random.next(below: 3)), slot: UInt64(random.next(below: 1000)))
          set.insert(slot)
          model.insert(slot)
        }
        check(set.count == model.count)
        for device in 0..<3 {
          for slot in 0..<1000 as Range<UInt64> {
            let address = SlotAddress(device: DeviceIndex(device), slot: slot)
            check(set.contains(address) == model.contains(address))
          }
        }
        set.removeAll()
        check(set.count == 0 && !set.contains(SlotAddress(device: DeviceIndex(0), slot: 1)))
      }
    }
  }
}
