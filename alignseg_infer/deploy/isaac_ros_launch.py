"""The launch file that goes into a folder for Isaac ROS. It is the same for every model."""

LAUNCH = '''"""Starts Isaac ROS's nodes around the model in this folder: camera image -> class mask.

The parameters of each node are in parameters.yaml. Images come in on /image, with /camera_info of
the same time stamp. Masks go out on unet/raw_segmentation_mask (mono8, a label for each pixel) and
unet/colored_segmentation_mask.
"""

from pathlib import Path

import yaml
from launch import LaunchDescription
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode

FOLDER = Path(__file__).resolve().parent
PATHS = ("model_file_path", "engine_file_path", "custom_plugin_lib")
NODES = {  # package, plugin, topics
    "resize_node": (
        "isaac_ros_image_proc",
        "nvidia::isaac_ros::image_proc::ResizeNode",
        [("image", "/image"), ("camera_info", "/camera_info")],
    ),
    "image_format_node": (
        "isaac_ros_image_proc",
        "nvidia::isaac_ros::image_proc::ImageFormatConverterNode",
        [("image_raw", "resize/image"), ("image", "converted/image")],
    ),
    "dnn_image_encoder_node": (
        "isaac_ros_dnn_image_encoder",
        "nvidia::isaac_ros::dnn_inference::DnnImageEncoderNode",
        [
            ("image", "converted/image"),
            ("camera_info", "resize/camera_info"),
            ("tensors", "tensor_pub"),
        ],
    ),
    "tensor_rt_node": (
        "isaac_ros_tensor_rt",
        "nvidia::isaac_ros::dnn_inference::TensorRTNode",
        [],
    ),
    "unet_decoder_node": (
        "isaac_ros_unet",
        "nvidia::isaac_ros::unet::UNetDecoderNode",
        [],
    ),
}


def generate_launch_description():
    """Return the container with all nodes."""
    told = yaml.safe_load((FOLDER / "parameters.yaml").read_text(encoding="utf-8"))
    container = ComposableNodeContainer(
        name="alignseg_container",
        namespace="",
        package="rclcpp_components",
        executable="component_container_mt",
        composable_node_descriptions=[
            make_node(name, told[name]["ros__parameters"]) for name in NODES
        ],
        output="screen",
    )
    return LaunchDescription([container])


def make_node(name, parameters):
    """Return a node; the files that it reads are in this folder."""
    package, plugin, topics = NODES[name]
    files = {key: str(FOLDER / parameters[key]) for key in PATHS if key in parameters}
    return ComposableNode(
        name=name,
        package=package,
        plugin=plugin,
        parameters=[{**parameters, **files}],
        remappings=topics,
    )
'''
