/// Rules of the engine that a test can break on purpose, to see that the simulator notices: each
/// case names the rule of the design that it breaks. Only the simulator's command sets one.
package enum PlantedBug: String, CaseIterable, Sendable {
  // The log
  /// Staging bytes may be overwritten when their append has completed, not only when durable.
  case ringReleasedOnCompletion
  /// The watermark moves over what completed after the flush was submitted.
  case watermarkPassesFlush
  /// A FLUSH is answered when the appends have completed, without a device flush.
  case flushWithoutFlush
  /// A failed device flush is told to one asker; the next flush succeeds.
  case flushErrorSeenOnce
  /// A failed append is taken for done.
  case appendErrorIgnored
  /// Records do not name the check of the header before them.
  case recordWithoutChain
  /// Records do not name their incarnation.
  case recordWithoutIncarnation
  /// Entries' checks are not seeded with their place.
  case entryCheckUnseeded
  /// A segment's header is not part of its first append, but of the next.
  case headerWrittenLate
  /// An append writes the block before it again.
  case blockWrittenTwice
  /// Where positions overlap, the older segment wins.
  case olderSegmentWins

  // The write path
  /// Read-modify-write does not look the block up again at staging.
  case modifyWithoutSecondLook
  /// What comes while an overlapping write is still being prepared does not wait for it.
  case overlapsUnordered
  /// Who leaves the queue's head to read something comes back at its end.
  case leaverComesBackLast
  /// The reply to a FUA write does not wait for the watermark.
  case durableNotAwaited
  /// A tombstone older than a data entry hides it.
  case tombstoneWinsAlways

  /// The watermark passes placed writes without a flush of their device.
  case placedDeviceNotFlushed
  /// What was placed on a device is trusted after it failed a flush.
  case placedTrustedAfterFailure
  /// Recovery believes placed entries above the watermark without their data.
  case placedNotVerified
  /// A placed slot that is not adopted yet is a home that may be patched.
  case placedPatchedEarly
  /// A slot that is another extent's home becomes this one's, because the log says so.
  case mappedSlotAdopted
  /// A superseded placed slot is free before its generation is dropped.
  case placedSlotFreedEarly

  // The batch and the table
  /// An entry is skipped for a younger one that is not durable.
  case skippedForVolatile
  /// What an older epoch wrote is patched in place.
  case olderEpochPatched
  /// A page is written over the twin in use.
  case twinInUseWritten
  /// A page is taken for what it says it is, without its parent's check.
  case pageCheckedAlone
  /// The bitmap on disk says what is busy now, not what the checkpoint names.
  case busyBitsWritten
  /// After a failed superblock A another checkpoint is built, over pages that A may name.
  case checkpointBuiltAnew
  /// No flush between pages and superblock A.
  case superblockBeforePages
  /// No flush between superblocks A and B.
  case superblocksTogether
  /// Slots and segments are reused when superblock A is durable, before B.
  case reuseAfterSuperblockA
  /// A slot is free in the moment its record is replaced, before the checkpoint.
  case slotFreedEarly
  /// Checksums of homes are not verified.
  case checksumIgnored
  /// Destage takes the table's checksum for a block the log replaced.
  case staleChecksumKept

  // Recovery
  /// What the ring holds above the watermark is taken for durable after a kill.
  case readableTakenForDurable
  /// A segment's footer is believed before all that it tells is durable.
  case footerBelievedEarly
  /// Entries above the watermark are believed without their payload's checksum.
  case payloadNotVerified
  /// The log goes on in the segment in which the process before ended.
  case oldSegmentGoesOn
  /// Slots that entries own are not known before slots are handed out.
  case ownedSlotsNotFound
  /// The older of two valid superblocks is taken.
  case olderSuperblockTaken
  /// Serving begins before superblocks with the new incarnation are durable.
  case incarnationNotWritten
  /// What lies beyond the old end is written before superblocks with the new size are durable.
  case grownEarly
  /// A generation is dropped by a checkpoint that folded only a part of it in.
  case generationDroppedEarly
}
