//! Feature gates: Kubernetes' of this version, and which of them are on here.

/// Gates of features that are there. They cannot be turned off.
const ON: &str = "
AggregatedDiscoveryRemoveBetaType AllowServiceExternalIPs AnonymousAuthConfigurableEndpoints AnyVolumeDataSource
APIResponseCompression APIServerIdentity APIServerTracing AllowParsingUserUIDFromCertAuth AuthorizeNodeWithSelectors
AuthorizePodWebsocketUpgradeCreatePermission AuthorizeWithSelectors BtreeWatchCache CPUManagerPolicyBetaOptions
CPUManagerPolicyOptions CRDObservedGenerationTracking CRDValidationRatcheting CSIServiceAccountTokenSecrets
ClearingNominatedNodeNameAfterBinding ComponentFlagz ComponentStatusz ConsistentListFromCache ConstrainedImpersonation
ContainerCheckpoint ContainerRestartRules CustomCPUCFSQuotaPeriod CustomResourceFieldSelectors DRAAdminAccess
DRAConsumableCapacity DRADeviceBindingConditions DRADeviceTaints DRAExtendedResource DRAPartitionableDevices
DRAPrioritizedList DRAResourceClaimDeviceStatus DRAResourceClaimGranularStatusAuthorization DRASchedulerFilterTimeout
DeclarativeValidation DeclarativeValidationBeta DeploymentReplicaSetTerminatingReplicas DetectCacheInconsistency
DisableAllocatorDualWrite DisableCPUQuotaWithExclusiveCPUs DisableNodeKubeProxyVersion DynamicResourceAllocation EnvFiles
ExecProbeTimeout ExtendWebSocketsToKubelet ExternalServiceAccountTokenSigner GracefulNodeShutdown
GracefulNodeShutdownBasedOnPodPriority HPAConfigurableTolerance HostnameOverride ImageMaximumGCAge ImageVolume
InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScaling InPlacePodVerticalScalingInitContainers
JobBackoffLimitPerIndex JobManagedBy JobPodReplacementPolicy JobSuccessPolicy KubeletCgroupDriverFromCRI
KubeletCrashLoopBackOffMax KubeletEnsureSecretPulledImages KubeletFineGrainedAuthz KubeletPSI
KubeletPodResourcesDynamicResources KubeletPodResourcesGet KubeletPodResourcesListUseActivePods KubeletSeparateDiskGC
KubeletServiceAccountTokenForCredentialProviders KubeletTracing ListFromCacheSnapshot LogarithmicScaleDown
MatchLabelKeysInPodAffinity MatchLabelKeysInPodTopologySpread MatchLabelKeysInPodTopologySpreadSelectorMerge
MultiCIDRServiceAllocator MutableCSINodeAllocatableCount MutablePodResourcesForSuspendedJobs
MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy NFTablesProxyMode NodeDeclaredFeatures
NodeInclusionPolicyInPodTopologySpread NodeLogQuery NodeSwap NominatedNodeNameForExpectation OpenAPIEnums
OpportunisticBatching OrderedNamespaceDeletion PLEGOnDemandRelist PodDeletionCost PodLevelResources PodLifecycleSleepAction
PodLifecycleSleepActionAllowZero PodObservedGenerationTracking PodReadyToStartContainersCondition PodSchedulingReadiness
PodTopologyLabelsAdmission PortForwardWebsockets PreferSameTrafficDistribution PreventStaticPodAPIReferences ProcMountType
RecoverVolumeExpansionFailure RecursiveReadOnlyMounts RelaxedDNSSearchValidation RelaxedEnvironmentVariableValidation
RelaxedServiceNameValidation ReloadKubeletClientCAFile ReloadKubeletServerCertificateFile RemoteRequestHeaderUID
ResilientWatchCacheInitialization ResourceHealthStatus ResourceHealthStatusMessage RestartAllContainersOnContainerExits
RetryGenerateName RotateKubeletServerCertificate SELinuxChangePolicy SELinuxMountReadWriteOncePod SchedulerAsyncPreemption
SchedulerPopFromBackoffQ SchedulerQueueingHints SeparateTaintEvictionController ServiceAccountNodeAudienceRestriction
ServiceAccountTokenJTI ServiceAccountTokenNodeBinding ServiceAccountTokenNodeBindingValidation ServiceAccountTokenPodNodeInfo
ServiceCIDRStatusFieldWiping SidecarContainers SizeBasedListCostEstimate StaleControllerConsistencyDaemonSet
StaleControllerConsistencyJob StaleControllerConsistencyReplicaSet StaleControllerConsistencyStatefulSet
StatefulSetSemanticRevisionComparison StorageNamespaceIndex StorageVersionHash StreamingCollectionEncodingToJSON
StreamingCollectionEncodingToProtobuf StrictIPCIDRValidation StructuredAuthenticationConfiguration
StructuredAuthenticationConfigurationEgressSelector StructuredAuthenticationConfigurationJWKSMetrics SupplementalGroupsPolicy
SystemdWatchdog TokenRequestServiceAccountUIDValidation TopologyManagerPolicyBetaOptions TopologyManagerPolicyOptions
TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation UnknownVersionInteroperabilityProxy
UserNamespacesSupport VolumeAttributesClass WatchCacheInitializationPostStartHook WatchList WinDSR WinOverlay
WindowsGracefulNodeShutdown";

/// Gates of features that are off by default, and are not there. They cannot be turned on.
const OFF: &str = "
AllAlpha AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests AllowOverwriteTerminationGracePeriodSeconds
AllowUnsafeMalformedObjectDeletion APIServingWithRoutine CBORServingAndStorage CRIListStreaming
ChangeContainerStatusOnKubeletRestart CloudControllerManagerWatchBasedRoutesReconciliation
CloudControllerManagerWebhook ClusterTrustBundle ClusterTrustBundleProjection ConcurrentWatchObjectDecode
CoordinatedLeaderElection CrossNamespaceVolumeDataSource DRADeviceTaintRules DRAListTypeAttributes
DRANodeAllocatableResources DRAResourcePoolStatus DRAWorkloadResourceClaims DeclarativeValidationTakeover EventedPLEG
GangScheduling GenericWorkload GitRepoVolumeDriver HPAScaleToZero ImageVolumeWithDigest
InPlacePodVerticalScalingExclusiveCPUs InPlacePodVerticalScalingExclusiveMemory KMSv1 KubeletInUserNamespace
KubeletRegistrationGetOnExistsOnly LocalStorageCapacityIsolationFSQuotaMonitoring ManifestBasedAdmissionControlConfig
MaxUnavailableStatefulSet MemoryQoS MutablePVNodeAffinity PersistentVolumeClaimUnusedSinceTime PodAndContainerStatsFromCRI
PodCertificateRequest PodLevelResourceManagers PodLogsQuerySplitStreams PodsAPI QOSReserved ReduceDefaultCrashLoopBackOffDecay
RuntimeClassInImageCriApi SELinuxMount SchedulerAsyncAPICalls SeparateCacheWatchRPC ShardedListAndWatch
StorageCapacityScoring StorageVersionAPI StorageVersionMigrator TaintTolerationComparisonOperators
TopologyAwareWorkloadScheduling UserNamespacesHostNetworkSupport VolumeLimitScaling
WindowsCPUAndMemoryAffinity WindowsHostNetwork WorkloadAwarePreemption WorkloadWithJob";

/// Gates that are off by default and can be turned on: they let options be used, what they are about goes by them
/// (CSIVolumeHealth), or is there all the same.
const EITHER: &str = "AllBeta CSIVolumeHealth ContainerStopSignals CPUManagerPolicyAlphaOptions TopologyManagerPolicyAlphaOptions";

fn is_in(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|gate| gate == name)
}

/// Why a gate cannot be set so; none if it can.
pub(super) fn check(name: &str, on: bool) -> Option<String> {
    match (is_in(ON, name), is_in(OFF, name)) {
        _ if is_in(EITHER, name) => None,
        (true, _) if !on => {
            Some(format!("cannot set feature gate {name} to false, feature is always on here"))
        }
        (_, true) if on => Some(format!("cannot set feature gate {name} to true, feature is not supported")),
        (false, false) => Some(format!("unrecognized feature gate: {name}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_what_they_are_here() {
        assert_eq!(check("NodeSwap", true), None);
        assert_eq!(check("MemoryQoS", false), None);
        let told = check("NodeSwap", false).unwrap_or_default();
        assert_eq!(told, "cannot set feature gate NodeSwap to false, feature is always on here");
        let told = check("MemoryQoS", true).unwrap_or_default();
        assert_eq!(told, "cannot set feature gate MemoryQoS to true, feature is not supported");
        assert_eq!(check("Nonsense", true).as_deref(), Some("unrecognized feature gate: Nonsense"));
        let both = ON.split_whitespace().find(|name| is_in(OFF, name));
        assert_eq!(both, None);
    }
}
