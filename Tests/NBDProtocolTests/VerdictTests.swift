import NBDProtocol
import Testing

@Suite struct VerdictTests {
  private let size: UInt64 = 1 << 20

  private func judge(
    _ type: UInt16, flags: UInt16 = 0, offset: UInt64 = 0, length: UInt64 = 4096,
    style: ReplyStyle = .simple, contexts: [String] = [], offer: Offer = .example
  ) -> Verdict {
    let session = makeSession(style, contexts: contexts, offer: offer)
    let isExtended = style == .extended
    let payload: UInt16 = isExtended && type == 1 ? 32 : 0
    return session.validate(
      parsed(
        session,
        Bytes().request(
          type, flags: flags | payload, offset: offset, length: length, extended: isExtended)))
  }

  @Test func rangesAreCheckedWithoutOverflow() {
    let expected: [(UInt16, Refusal)] = [
      (0, .outOfRange), (1, .writeOutOfRange), (4, .outOfRange), (5, .outOfRange),
      (6, .writeOutOfRange), (7, .outOfRange),
    ]
    let contexts = ["base:allocation"]
    for (type, refusal) in expected {
      func at(_ offset: UInt64, _ length: UInt64) -> Verdict {
        judge(type, offset: offset, length: length, style: .extended, contexts: contexts)
      }
      #expect(at(size - 1, 1) == .perform(CommandType(rawValue: type)!))
      #expect(at(0, size) == .perform(CommandType(rawValue: type)!))
      for (offset, length): (UInt64, UInt64) in [
        (size, 1), (size - 1, 2), (.max, 1), (.max, 4096), (1, size), (0, size + 1),
        (.max - 4095, 4096), (1 << 63, 1 << 20),
      ] {
        #expect(at(offset, length) == .refuse(refusal))
      }
      if type != 1 {
        #expect(at(.max, .max) == .refuse(refusal))
        #expect(at(4096, .max - 4095) == .refuse(refusal))
      }
    }
    #expect(Refusal.outOfRange.code == .invalid)
    #expect(Refusal.writeOutOfRange.code == .noSpace)
  }

  @Test func nothingIsDoneForNoBytes() {
    for type: UInt16 in [0, 1, 4, 5, 6] {
      #expect(judge(type, length: 0) == .succeed)
    }
    #expect(judge(7, length: 0, style: .structured, contexts: ["base:allocation"]) == .succeed)
  }

  @Test func unknownCommandsAndFlagsAreInvalid() {
    for type: UInt16 in [8, 9, 99, .max] { #expect(judge(type) == .refuse(.unknownCommand)) }
    let allowed: [UInt16: UInt16] = [0: 1, 1: 1, 3: 1, 4: 1, 5: 1, 6: 1 | 2 | 16, 7: 1 | 8]
    for (type, mask) in allowed {
      for bit in 0..<16 {
        let flag: UInt16 = 1 << UInt16(bit)
        let style: ReplyStyle = type == 7 ? .structured : .simple
        let verdict = judge(
          type, flags: flag, length: type == 3 ? 0 : 512, style: style,
          contexts: type == 7 ? ["base:allocation"] : [])
        if mask & flag != 0 {
          #expect(verdict == .perform(CommandType(rawValue: type)!))
        } else {
          #expect(verdict == .refuse(.unsuitableFlag))
        }
      }
    }
    #expect(Refusal.unsuitableFlag.code == .invalid && Refusal.unknownCommand.code == .invalid)
  }

  @Test func dontFragmentNeedsChunks() {
    #expect(judge(0, flags: 4) == .refuse(.unsuitableFlag))
    #expect(judge(0, flags: 4, style: .structured) == .perform(.read))
    var offer = Offer.example
    offer.export.size = 1 << 40
    #expect(
      judge(0, flags: 4, length: 64 << 10, style: .structured, offer: offer) == .perform(.read))
    #expect(
      judge(0, flags: 4, length: 64 << 10 + 1, style: .structured, offer: offer)
        == .refuse(.cannotStayWhole))
    #expect(Refusal.cannotStayWhole.code == .overflow)
  }

  @Test func readsAreLimitedByPayload() {
    var offer = Offer.example
    offer.export.size = 1 << 40
    #expect(judge(0, length: 64 << 20, offer: offer) == .perform(.read))
    #expect(judge(0, length: 64 << 20 + 1, offer: offer) == .refuse(.readTooLong))
    #expect(judge(0, length: 0xffff_ffff, offer: offer) == .refuse(.readTooLong))
    #expect(judge(4, length: 0xffff_ffff, offer: offer) == .perform(.trim))
    #expect(judge(6, length: 0xffff_ffff, offer: offer) == .perform(.writeZeroes))
    #expect(Refusal.readTooLong.code == .invalid)
  }

  @Test func readOnlyExports() {
    var offer = Offer.example
    offer.export.isReadOnly = true
    for type: UInt16 in [1, 4, 6] {
      #expect(judge(type, offer: offer) == .refuse(.readOnly))
    }
    #expect(Refusal.readOnly.code == .notPermitted)
    #expect(judge(0, offer: offer) == .perform(.read))
    #expect(judge(3, length: 0, offer: offer) == .perform(.flush))
    #expect(judge(5, offer: offer) == .perform(.cache))
  }

  @Test func flushHasNoRange() {
    #expect(judge(3, length: 0) == .perform(.flush))
    #expect(judge(3, length: 1) == .refuse(.malformed))
    #expect(judge(3, offset: 1, length: 0) == .refuse(.malformed))
  }

  @Test func blockStatusNeedsContexts() {
    #expect(judge(7) == .refuse(.noContext))
    #expect(judge(7, style: .structured) == .refuse(.noContext))
    #expect(
      judge(7, style: .structured, contexts: ["base:allocation"]) == .perform(.blockStatus))
    #expect(Refusal.noContext.code == .invalid)
  }

  @Test func disconnectIsAlwaysTaken() {
    for style: ReplyStyle in [.simple, .structured, .extended] {
      #expect(judge(2, flags: 0xff, offset: 9, length: 9, style: style) == .disconnect)
    }
  }
}
